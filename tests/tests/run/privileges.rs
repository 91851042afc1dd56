//! What is there without privileges, and without a broker to deliver to.

use std::time::Duration;

use tidegate_tests::{Broker, Daemon, Gateway, Subscriber, Tap, need, requires, schema::Schemas};

use crate::{all_arrive, put};

#[test]
fn without_privileges_it_says_what_is_missing_and_does_the_rest() {
    requires!(need::root(), need::program("mosquitto"), need::program("ip"));
    // Interfaces that the shipped configuration would watch are there.
    let net = Gateway::new();
    let broker = Broker::builder().inside(&net.gateway).start();
    let tap = Tap::before(&broker);
    let subscriber = Subscriber::inside(Some(&net.gateway), broker.port(), "tidegate/v1/#");
    let daemon = Daemon::builder()
        .broker(tap.port())
        .inside(&net.gateway)
        .unprivileged()
        .config("[host]\ninterval = \"1s\"")
        .start();
    // The birth message is published again once loading the programs was tried.
    let what = "status says that traffic is not watched, and why";
    subscriber.wait_for(what, Duration::from_secs(20), |message| {
        let traffic = || message.json()["features"]["traffic"].clone();
        message.topic == daemon.topic("status")
            && traffic()["available"] == false
            && traffic()["reason"].as_str().is_some_and(|why| why.contains("CAP_") || why.contains("ermi"))
    });

    all_arrive(&tap, &put(&daemon, 0, 100));
    subscriber.wait_for("telemetry of the machine", Duration::from_secs(20), |message| {
        message.topic == daemon.topic("telemetry/host")
    });
    Schemas::load().assert_valid(daemon.id(), &tap.published());
}

#[test]
fn without_a_broker_configured_it_takes_records_and_delivers_them_later() {
    requires!(need::program("mosquitto"));
    let mut daemon = Daemon::builder().start();
    let accepted = put(&daemon, 0, 100);
    assert_eq!(daemon.status()["uplink"]["state"], "not-provisioned");
    daemon.stop(Duration::from_secs(5));

    let broker = Broker::start();
    let tap = Tap::before(&broker);
    daemon.deliver_to(tap.port());
    daemon.start_again();
    all_arrive(&tap, &accepted);
}
