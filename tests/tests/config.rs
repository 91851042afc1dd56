//! What the program says about configurations that it cannot use.

use std::time::Duration;

use tidegate_tests::Daemon;

#[test]
fn a_wrong_configuration_ends_with_78_and_all_its_errors() {
    let mut daemon = Daemon::builder()
        .config("[host]\ninterval = \"soon\"\n\n[spol]\ndir = \"/x\"")
        .env("TIDEGATE__TRAFFIC__SAMPLE_RATE", "many")
        .prepare();
    let output = daemon.command(&["check-config", "--config"]).arg(daemon.config_file()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    for (place, complaint) in [
        ("conf.d/test.toml:", "[host] interval: found \"soon\", accepted is a duration"),
        ("conf.d/test.toml:", "[spol]: there is no such section, did you mean [spool]?"),
        ("TIDEGATE__TRAFFIC__SAMPLE_RATE: ", "[traffic] sample_rate: found many, accepted is a whole number"),
    ] {
        assert!(said.lines().any(|line| line.contains(place) && line.contains(complaint)), "{complaint}\nin:\n{said}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");

    daemon.start_only();
    assert_eq!(daemon.running().wait(Duration::from_secs(5)).code(), Some(78));
}

#[test]
fn what_cannot_be_written_is_an_error_and_no_panic() {
    let daemon = Daemon::builder().prepare();
    for format in [&[][..], &["--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = daemon.command(&["check-config", "--config"]);
        let output = command.arg(daemon.config_file()).args(format).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: writing: ") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn the_shipped_configuration_is_accepted() {
    let daemon = Daemon::builder().prepare();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../daemon/tidegate.toml");
    let output = daemon.command(&["check-config", "--config", shipped]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
