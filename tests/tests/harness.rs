//! The harness itself: what scenarios rely on holds.

use std::{process::Command, time::Duration};

use tidegate_tests::{Broker, Gateway, Subscriber, Tap, eventually, mqtt::Pki, need, requires};

/// Publishes with QoS 1 through `port` and waits for the acknowledgement.
fn publish(port: u16, topic: &str, payload: &str) -> bool {
    Command::new("mosquitto_pub")
        .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", topic, "-m", payload])
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn a_subscriber_outlives_a_broker_that_forgets_it() {
    requires!(need::program("mosquitto"), need::program("mosquitto_pub"));
    let mut broker = Broker::start();
    let subscriber = Subscriber::start(broker.port(), "a/#");
    assert!(publish(broker.port(), "a/1", "first"));
    subscriber.wait_for("the first message", Duration::from_secs(5), |message| message.topic == "a/1");

    broker.kill();
    broker.start_again();
    eventually(Duration::from_secs(5), "the subscriber is back", || subscriber.subscribed() == 2);
    assert!(publish(broker.port(), "a/2", "second"));
    subscriber.wait_for("the second message", Duration::from_secs(5), |message| message.topic == "a/2");
    assert_eq!(subscriber.messages().len(), 2);
}

#[test]
fn a_tap_notes_what_the_broker_acknowledged_and_nothing_else() {
    requires!(need::program("mosquitto"), need::program("mosquitto_pub"));
    let mut broker = Broker::builder().persistent().start();
    let tap = Tap::before(&broker);
    assert!(publish(tap.port(), "a/1", "one"));
    broker.freeze();
    let mut frozen = Command::new("mosquitto_pub")
        .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &tap.port().to_string(), "-q", "1", "-t", "a/2", "-m", "two"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(tap.acknowledged_count(), 1, "a frozen broker acknowledges nothing");
    broker.thaw();
    assert!(frozen.wait().unwrap().success());
    let acknowledged: Vec<_> = tap.acknowledged().into_iter().map(|message| message.payload).collect();
    assert_eq!(acknowledged, ["one", "two"]);

    broker.kill();
    assert!(!publish(tap.port(), "a/3", "three"), "there is no broker");
    broker.start_again();
    assert!(publish(tap.port(), "a/4", "four"));
    assert_eq!(tap.acknowledged_count(), 3);
}

#[test]
fn a_broker_demands_client_certificates_and_passwords() {
    requires!(need::program("mosquitto"), need::program("mosquitto_pub"), need::program("openssl"));
    let pki = Pki::new();
    let client = pki.client("gw-test");
    let broker = Broker::builder().tls(&pki, true).password("gw-test", "secret").start();
    let publish = |identified: bool, password: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &broker.port().to_string(), "--cafile"]).arg(pki.ca());
        if identified {
            command.arg("--cert").arg(&client.cert).arg("--key").arg(&client.key);
        }
        command.args(["-u", "gw-test", "-P", password, "-q", "1", "-t", "a", "-m", "b"]).output().unwrap().status
    };
    assert!(publish(true, "secret").success());
    assert!(!publish(false, "secret").success());
    assert!(!publish(true, "wrong").success());
    assert!(broker.url().starts_with("mqtts://"));
}

#[test]
fn a_broker_inside_a_gateway_is_reached_there_only() {
    requires!(need::root(), need::program("mosquitto"), need::program("ip"));
    let net = Gateway::new();
    let broker = Broker::builder().inside(&net.gateway).start();
    let subscriber = Subscriber::inside(Some(&net.gateway), broker.port(), "a/#");
    let sent = net
        .gateway
        .command("mosquitto_pub")
        .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1", "-t", "a/b", "-m", "c"])
        .status();
    assert!(sent.unwrap().success());
    subscriber.wait_for("the message", Duration::from_secs(5), |message| message.topic == "a/b");
    assert!(!publish(broker.port(), "a/b", "c"), "the host's loopback is another one");
}
