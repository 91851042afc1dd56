//! The README's section for gateways, word by word.

use std::{fmt::Write as _, time::Duration};

use tidegate_tests::{
    requires,
    vm::{self, Machine},
};

use crate::gateway::SOON;

/// The indented blocks of a section of the README: commands, as a reader types them.
fn commands(section: &str) -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let heading = format!("\n## {section}\n");
    let text = readme.split(&heading).nth(1).unwrap_or_else(|| panic!("the README has a section {section:?}"));
    let text = text.split("\n## ").next().expect("a split has a first part");
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let command = line.strip_prefix("    ");
        match command {
            Some(command) if inside => {
                let block = blocks.last_mut().expect("one was begun");
                writeln!(block, "{command}").expect("a string takes all");
            }
            Some(command) => blocks.push(format!("{command}\n")),
            None => {}
        }
        inside = command.is_some();
    }
    blocks
}

#[test]
fn the_readme_leads_from_the_package_to_the_first_message_on_the_broker() {
    requires!(vm::available());
    let machine = Machine::debian().resume();
    // The reader has the package in the folder where they are, a broker, and sudo.
    machine.put_package("/srv/tidegate_0.1.0-1_arm64.deb");
    machine.run("echo 127.0.0.1 broker.example.com >>/etc/hosts; systemctl start mosquitto").ok();
    machine.write("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"");
    machine.run("chmod 755 /usr/local/bin/sudo").ok();
    // A terminal stays open; what is told to it goes through one shell, as with a person.
    let type_in =
        |commands: &str| machine.run(&format!("cd /srv && export DEBIAN_FRONTEND=noninteractive\n{commands}"));

    let blocks = commands("On a gateway");
    let [install, provision, look, follow, hand_over] = blocks.as_slice() else {
        panic!("five steps, each with its commands: {blocks:#?}")
    };
    // apt asks; sudo is above.
    type_in(&install.replace("apt install", "apt-get --yes install")).ok();
    type_in(provision).ok();
    machine.until(SOON, "tidegate status --json | grep -q '\"state\":\"connected\"'");
    let screen = type_in(look);
    assert!(screen.stdout.starts_with("all is well"), "{screen:?}");
    assert!(screen.stdout.contains("connected mqtt://broker.example.com"), "{screen:?}");
    assert!(screen.stdout.contains("eth0"), "{screen:?}");

    // The one that does not end.
    machine.write("/srv/follow", follow);
    machine.run("setsid bash /srv/follow >/srv/seen 2>&1 & echo $! >/srv/follow.pid").ok();
    machine.until(SOON, r#"grep '^tidegate/v1/tg-[0-9a-f]*/status {"v":1,"state":"online"' /srv/seen"#);
    type_in(hand_over).ok();
    machine.until(SOON, r#"grep '^tidegate/v1/tg-[0-9a-f]*/ingest/meter .*"data":{"kwh":7.5}}$' /srv/seen"#);
    // A minute is the default interval.
    machine.until(Duration::from_mins(2), r#"grep '^tidegate/v1/tg-[0-9a-f]*/telemetry/traffic .*"eth0"' /srv/seen"#);
    machine.run("kill -- -$(cat /srv/follow.pid)").ok();
}
