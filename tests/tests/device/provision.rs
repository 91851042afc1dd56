//! A new gateway with nothing but a file, put where its administrator or whoever wrote its card can reach.

use tidegate_tests::{
    Broker, Tap, eventually,
    mqtt::Pki,
    requires,
    vm::{self, Machine},
};

use crate::gateway::{self, QUIET, SOON};

#[test]
fn one_file_for_root_alone_provisions_a_gateway_at_its_next_start() {
    requires!(vm::available());
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    machine.write("/etc/tidegate/conf.d/test.toml", QUIET);
    machine.run("systemctl start tidegate").ok();
    assert_eq!(machine.status()["uplink"]["state"], "not-provisioned");

    // For root alone; the service may not read it, and the unit's command does.
    let content = format!("url = \"mqtt://10.0.2.2:{}\"\ngateway_id = \"gw-test\"\n", tap.port());
    machine.write("/etc/tidegate/provision.toml", &content);
    machine.run("chmod 600 /etc/tidegate/provision.toml && systemctl restart tidegate").ok();
    machine.send("meter", 1, 1);
    gateway::until_delivered(&tap, "ingest/meter", 1);
    machine.run("! [ -e /etc/tidegate/provision.toml ]").ok();
    let modes = machine.run("cd /var/lib/tidegate && stat -c '%a %U:%G %n' provisioned provisioned/tidegate.toml").ok();
    assert_eq!(modes, "700 tidegate:tidegate provisioned\n600 tidegate:tidegate provisioned/tidegate.toml");

    // A boot partition that cannot be written, with a bad file: told once, and the gateway goes on.
    let pki = Pki::new();
    let ca = std::fs::read_to_string(pki.ca()).expect("it was made");
    machine.run("mkdir -p /boot/firmware && mount -t tmpfs tmpfs /boot/firmware").ok();
    machine.write("/boot/firmware/provision.toml", &format!("url = \"mqtt://10.0.2.2\"\nca = '''\n{ca}'''\n"));
    machine.run("mount -o remount,ro /boot/firmware && systemctl restart tidegate").ok();
    machine.send("meter", 2, 2);
    gateway::until_delivered(&tap, "ingest/meter", 2);
    let told = machine.run("journalctl -u tidegate -b --output cat | grep -c 'provision.toml: line 1: url:'").ok();
    assert_eq!(told, "1", "in the journal");
    let event = |what: &'static str| {
        tap.acknowledged()
            .into_iter()
            .any(|message| message.topic.ends_with("/event/config") && message.json()["data"]["what"] == what)
    };
    eventually(SOON, "both are events", || event("provisioned") && event("provisioning-refused"));

    // Where it can be written again, it is renamed with the reason, for root alone.
    machine.run("mount -o remount,rw /boot/firmware && systemctl restart tidegate").ok();
    let refused = machine.run("head -n 2 /boot/firmware/provision.toml.refused | tail -n 1").ok();
    assert!(refused.starts_with("# tidegate: line 1: url: "), "{refused}");
    machine.run("! [ -e /boot/firmware/provision.toml ] && umount /boot/firmware").ok();
}
