//! A technician at the gateway: a policy from a stick, with and without a link, and a gateway that is opened for a time.

use std::{
    fs,
    io::Write as _,
    process::{Output, Stdio},
};

use tidegate_tests::{need, requires};

use crate::managed::{Managed, block_right};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_policy_from_a_stick_is_judged_as_ever_and_vouched_for_where_there_is_no_link() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let gateway = Managed::start();
    let folder = gateway.daemon.state().join("stick");
    fs::create_dir_all(&folder).unwrap();
    let stick = |version: u64| {
        let file = folder.join(format!("{version}.json"));
        fs::write(&file, block_right(version).gateway("gw-test").signed_by(&gateway.key)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let applied = gateway.command(&["apply", &stick(1)]);
    assert!(applied.status.success(), "{}", text(&applied));
    assert!(!gateway.passes());
    let shown = gateway.daemon.status()["bundles"]["enforced"].clone();
    assert_eq!(shown["version"], 1, "{shown}");
    let again = gateway.command(&["apply", &stick(1)]);
    assert!(again.status.success(), "it is the same: {}", text(&again));

    // For another gateway: refused, with the reason.
    let file = folder.join("other.json");
    fs::write(&file, block_right(9).gateway("gw-8").signed_by(&gateway.key)).unwrap();
    let refused = gateway.command(&["apply", file.to_str().unwrap()]);
    assert!(!refused.status.success() && text(&refused).contains("gateway gw-8"), "{}", text(&refused));

    gateway.broker.freeze();
    let offline = |version: u64, answer: &str| {
        let mut command = gateway.daemon.command(&["policy", "apply", "--offline", &stick(version)]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let vouched = offline(2, "yes\n");
    assert!(vouched.status.success(), "{}", text(&vouched));
    let shown = gateway.daemon.status()["bundles"].clone();
    assert_eq!((&shown["enforced"]["version"], &shown["sources"][0]["state"]), (&2.into(), &"confirmed".into()));
    let unsure = offline(3, "no\n");
    assert!(!unsure.status.success(), "{}", text(&unsure));
    tidegate_tests::eventually(crate::managed::SOON, "what nobody vouched for is gone again", || {
        let shown = gateway.daemon.status()["bundles"].clone();
        if shown["enforced"]["version"] == 2 { Ok(()) } else { Err(shown.to_string()) }
    });
    gateway.broker.thaw();
}

#[test]
fn an_opened_gateway_lets_everything_pass_and_says_so_until_it_ends() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    gateway.desire(block_right(1));
    gateway.stands(1, "confirmed");
    let opened = gateway.command(&["open", "--for", "10m"]);
    assert!(opened.status.success(), "{}", text(&opened));
    gateway.reported("it is open", |report| report["open_until_ms"].is_u64() && report["enforced"].is_null());
    assert!(gateway.passes());
    let ended = gateway.command(&["open", "--end"]);
    assert!(ended.status.success(), "{}", text(&ended));
    gateway.stands(1, "confirmed");
    assert!(!gateway.passes());
    let opened = gateway.command(&["open", "--for", "2s"]);
    assert!(opened.status.success(), "{}", text(&opened));
    gateway.reported("it is open", |report| report["open_until_ms"].is_u64());
    gateway.reported("it ends by itself", |report| {
        report.get("open_until_ms").is_none() && report["enforced"]["version"] == 1
    });
    assert!(!gateway.passes());
    assert_eq!((gateway.events("opened").len(), gateway.events("closed").len()), (2, 2));
    gateway.assert_all_valid();
}
