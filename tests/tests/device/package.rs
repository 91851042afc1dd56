//! The Debian package, as an administrator meets it.

use tidegate_tests::{
    requires,
    vm::{self, Machine},
};

use crate::gateway::{self, SOON};

/// Where a scenario puts the package.
pub(crate) const PACKAGE: &str = "/srv/tidegate_0.1.0-1_arm64.deb";
/// What [`make_newer_package`] makes.
pub(crate) const NEWER: &str = "/srv/tidegate_0.1.0-2_arm64.deb";

/// Calls apt as a script does, and returns what it said; no word of a failure may be in it.
#[track_caller]
pub(crate) fn apt(machine: &Machine, arguments: &str) -> String {
    let said = machine.run(&format!("DEBIAN_FRONTEND=noninteractive apt-get --yes {arguments} 2>&1")).ok();
    for word in ["error", "warning", "fail", "cannot", "unable", "denied", "not found"] {
        let complaints: Vec<&str> = said.lines().filter(|line| line.to_lowercase().contains(word)).collect();
        assert!(complaints.is_empty(), "{complaints:#?} in:\n{said}");
    }
    said
}

/// Holds paths of the machine against `MODE USER:GROUP PATH` of each.
#[track_caller]
fn assert_modes(machine: &Machine, wanted: &[&str]) {
    let paths: Vec<&str> = wanted.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    let found = machine.run(&format!("stat -c '%a %U:%G %n' {}", paths.join(" "))).ok();
    assert_eq!(found.lines().collect::<Vec<_>>(), wanted);
}

#[test]
fn the_package_installs_upgrades_goes_and_comes_back_as_debians_users_expect() {
    requires!(vm::available());
    let machine = Machine::debian().resume();
    machine.put_package(PACKAGE);

    // Installed: enabled, running, its folders and users there.
    apt(&machine, &format!("install {PACKAGE}"));
    assert_eq!(machine.run("systemctl is-enabled tidegate; systemctl is-active tidegate").ok(), "enabled\nactive");
    assert_eq!(machine.status()["uplink"]["state"], "not-provisioned");
    machine
        .until(SOON, "systemctl status tidegate | grep 'Status: \"not provisioned: there is no broker to deliver to'");
    assert_modes(
        &machine,
        &[
            "755 root:root /etc/tidegate",
            "755 root:root /etc/tidegate/conf.d",
            "644 root:root /etc/tidegate/tidegate.toml",
            "700 tidegate:tidegate /var/lib/tidegate",
            "1700 tidegate:tidegate /run/tidegate-bpf",
            "755 tidegate:tidegate /run/tidegate",
            "660 tidegate:tidegate /run/tidegate/control.sock",
            "660 tidegate:tidegate-ingest /run/tidegate/ingest.sock",
            "755 root:root /usr/bin/tidegate",
            "644 root:root /usr/share/man/man1/tidegate.1.gz",
            "644 root:root /usr/share/man/man1/tidegate-status.1.gz",
            "644 root:root /usr/share/man/man5/tidegate.toml.5.gz",
            "644 root:root /usr/share/bash-completion/completions/tidegate",
            "644 root:root /usr/share/zsh/vendor-completions/_tidegate",
            "644 root:root /usr/share/fish/vendor_completions.d/tidegate.fish",
            "644 root:root /usr/share/doc/tidegate/copyright",
        ],
    );
    let conffiles = machine.run("dpkg-query -W -f '${Conffiles}' tidegate").ok();
    assert_eq!(conffiles.split_whitespace().next(), Some("/etc/tidegate/tidegate.toml"));
    assert_eq!(machine.run("dpkg --verify tidegate").ok(), "", "each file as the package has it");
    gateway::until_watched(&machine, "eth0");

    // Whoever is in the groups may look, and hand over records; others may not.
    machine.run("useradd --groups tidegate,tidegate-ingest technician && useradd guest").ok();
    machine.run("runuser -u technician -- sh -c 'tidegate status --json >/dev/null; [ $? -le 1 ]'").ok();
    machine.run("echo 1 | runuser -u technician -- tidegate send meter").ok();
    assert_ne!(machine.run("echo 1 | runuser -u guest -- tidegate send meter").status, 0);
    machine.send("meter", 2, 5);

    // Upgraded: one restart, all that was there kept.
    let epoch = machine.status()["spool"]["epoch"].clone();
    assert!(epoch.is_string());
    machine.run("echo '# mine' >>/etc/tidegate/tidegate.toml").ok();
    let invocation = machine.unit("tidegate", "InvocationID");
    make_newer_package(&machine);
    apt(&machine, &format!("install {NEWER}"));
    assert_eq!(machine.run("dpkg-query -W -f '${Version}' tidegate").ok(), "0.1.0-2");
    assert_eq!(machine.run("systemctl is-enabled tidegate; systemctl is-active tidegate").ok(), "enabled\nactive");
    assert_ne!(machine.unit("tidegate", "InvocationID"), invocation);
    assert_eq!(starts(&machine), 2, "once at the installation, once at the upgrade");
    assert_eq!(machine.unit("tidegate", "NRestarts"), "0");
    kept(&machine, &epoch);

    // Stopped and disabled by its administrator, it stays so at the next upgrade.
    machine.run("systemctl disable --now tidegate").ok();
    machine.run("/var/lib/dpkg/info/tidegate.postinst configure 0.1.0-1").ok();
    let state = machine.run("systemctl is-enabled tidegate; systemctl is-active tidegate; true").ok();
    assert_eq!(state, "disabled\ninactive");
    machine.run("systemctl enable --now tidegate").ok();
    gateway::until_watched(&machine, "eth0");
    assert_eq!(gateway::programs(&machine, "eth0"), 2);

    // Removed: nothing runs, configuration and state stay.
    apt(&machine, "remove tidegate");
    assert_ne!(machine.run("systemctl is-active tidegate").status, 0);
    assert_eq!(gateway::programs(&machine, "eth0"), 0, "no program is left behind");
    assert_ne!(machine.run("mountpoint /run/tidegate-bpf").status, 0);
    machine.run("! [ -e /usr/bin/tidegate ] && ! [ -e /run/tidegate ]").ok();
    assert_eq!(machine.run("tail -n 1 /etc/tidegate/tidegate.toml").ok(), "# mine");
    machine.run("[ -d /var/lib/tidegate/spool ]").ok();

    // Back again, with what it had.
    apt(&machine, &format!("install {NEWER}"));
    assert_eq!(machine.run("systemctl is-enabled tidegate; systemctl is-active tidegate").ok(), "enabled\nactive");
    kept(&machine, &epoch);

    // Purged: gone without a trace but its users.
    apt(&machine, "purge tidegate");
    machine.run("! [ -e /etc/tidegate ] && ! [ -e /var/lib/tidegate ] && ! [ -e /run/tidegate ]").ok();
    assert_eq!(gateway::programs(&machine, "eth0"), 0);
    assert_eq!(machine.run("find /etc/systemd /var/lib/systemd -name '*tidegate*'").ok(), "");
    assert_eq!(machine.run("systemctl --failed --plain --no-legend").ok(), "");
}

/// The package with a higher version and nothing else changed.
#[track_caller]
pub(crate) fn make_newer_package(machine: &Machine) {
    machine
        .run(&format!(
            "set -e
             dpkg-deb --raw-extract {PACKAGE} /srv/newer
             sed -i 's/^Version: .*/Version: 0.1.0-2/' /srv/newer/DEBIAN/control
             dpkg-deb --root-owner-group -Znone --build /srv/newer {NEWER} >/dev/null"
        ))
        .ok();
}

/// How often the daemon was started in this boot.
fn starts(machine: &Machine) -> usize {
    let journal = machine.run("journalctl -b --quiet --output cat SYSLOG_IDENTIFIER=tidegate").ok();
    journal.lines().filter(|line| *line == "ready").count()
}

/// The spool with its five records, and the changed configuration.
#[track_caller]
fn kept(machine: &Machine, epoch: &serde_json::Value) {
    assert_eq!(&machine.status()["spool"]["epoch"], epoch, "the same spool");
    let records = machine.run("tidegate spool cat ingest --stream ingest/meter --json | wc -l").ok();
    assert_eq!(records, "5");
    assert_eq!(machine.run("tail -n 1 /etc/tidegate/tidegate.toml").ok(), "# mine");
}
