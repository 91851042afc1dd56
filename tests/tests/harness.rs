//! The harness itself: what scenarios rely on holds.

use std::{process::Command, time::Duration};

use rustix::process::Signal;
use tidegate_tests::{
    Broker, Gateway, Post, Process, Publisher, Scratch, Subscriber, Tap, eventually,
    mqtt::{Pki, PubAckReason},
    need, requires,
    schema::Schemas,
};

/// Publishes with QoS 1 through `port` and waits for the acknowledgement.
fn publish(port: u16, topic: &str, payload: &str) -> bool {
    Command::new("mosquitto_pub")
        .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", topic, "-m", payload])
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn every_schema_is_one_and_its_examples_are_as_it_says() {
    let _examples_are_checked = Schemas::load();
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

#[test]
fn a_publisher_retains_and_clears_and_sends_more_than_any_gateway_takes() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let mut publisher = Publisher::connect(&broker);
    publisher.retain("a/desired", "one");
    publisher.retain("a/withdrawn", "two");
    publisher.clear("a/withdrawn");
    publisher.retain("a/huge", vec![b'x'; 9 << 20]);

    let subscriber = Subscriber::start(broker.port(), "a/#");
    let huge = subscriber.wait_for("the largest", Duration::from_secs(10), |message| message.topic == "a/huge");
    assert_eq!(huge.payload.len(), 9 << 20);
    subscriber.wait_for("what is retained", Duration::from_secs(5), |message| message.topic == "a/desired");
    assert_eq!(subscriber.messages().len(), 2, "what was cleared is gone");
}

#[test]
fn a_publisher_tells_what_an_access_list_refuses_from_what_it_lets_through() {
    requires!(need::program("mosquitto"));
    let broker = Broker::builder().password("anna", "secret").acl("user anna\ntopic write a/#\n").start();
    let mut publisher = Publisher::connect_as(&broker, "anna", "secret");
    assert_eq!(publisher.post(Post::new("a/b", "c")), PubAckReason::NoMatchingSubscribers);
    assert_eq!(publisher.post(Post::new("b/b", "c")), PubAckReason::NotAuthorized);
}

/// Not a test of its own: what the next one starts, and interrupts.
#[test]
fn part_that_is_interrupted() {
    if std::env::var_os("TIDEGATE_INTERRUPTED_PART").is_none() {
        return;
    }
    let broker = Broker::start();
    let subscriber = Subscriber::start(broker.port(), "#");
    let root = need::root().is_ok() && need::program("ip").is_ok();
    let net = root.then(Gateway::new);
    println!("ready {}", net.as_ref().map(|net| net.gateway.path()).unwrap_or_default());
    std::thread::sleep(Duration::from_mins(10));
    drop(subscriber);
}

#[test]
fn an_interrupted_test_leaves_nothing_behind() {
    requires!(need::program("mosquitto"));
    let here = Scratch::new("interrupted");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "part_that_is_interrupted", "--nocapture"])
        .env("TIDEGATE_INTERRUPTED_PART", "1")
        .env("TMPDIR", here.path());
    let mut part = Process::start("interrupted part", command);
    part.wait_for_line("ready", Duration::from_secs(20));
    let children = children(part.pid());
    assert!(!children.is_empty() && here.path().read_dir().unwrap().count() == 1, "there is something to leave");

    part.signal(Signal::INT);
    assert_eq!(part.wait(Duration::from_secs(10)).code(), Some(130));
    assert_eq!(here.path().read_dir().unwrap().count(), 0, "no folder is left");
    eventually(Duration::from_secs(5), "no child is left", || children.iter().all(|child| is_gone(*child)));
}

/// Children of all threads of a process (proc(5), `children`).
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map_while(Result::ok);
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|children| children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn is_gone(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}
