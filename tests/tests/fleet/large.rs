//! Ten thousand gateways at a broker with the limits that mosquitto has by default.

use serde_json::json;
use tidegate_tests::{Broker, Post, Publisher, fleet::Operator, mqtt::PubAckReason, need, requires};
use tidegate_values::Digest;

const GATEWAYS: usize = 10_000;

#[test]
fn everything_that_ten_thousand_gateways_left_at_the_broker_is_read() {
    requires!(need::program("mosquitto"));
    // Defaults of mosquitto.conf(5): beyond them it drops what a client is owed.
    let broker = Broker::builder().quiet().line("max_inflight_messages 20").line("max_queued_messages 1000").start();
    let operator = Operator::of(&broker);
    operator.write("groups/plant.toml", "[host]\ninterval = \"10s\"\n");
    let payload = br#"{"config":{"host":{"interval":"10s"}},"version":7}"#;
    let confirmed = json!({"version": 7, "digest": Digest::of(payload)});
    let report = json!({
        "state": "confirmed", "version": null, "confirmed": null,
        "groups": [{"group": "plant", "state": "confirmed", "version": 7, "digest": Digest::of(payload), "confirmed": confirmed}],
    });
    let mut publisher = Publisher::connect(&broker);
    publisher.retain("tidegate/v1/@plant/config/desired", payload.to_vec());
    for index in 0..GATEWAYS {
        publisher.shout(Post::new(format!("tidegate/v1/gw-{index}/status"), r#"{"state":"online"}"#).retained());
        publisher.shout(Post::new(format!("tidegate/v1/gw-{index}/config/reported"), report.to_string()).retained());
    }
    // Answered behind all of them.
    let behind = publisher.post(Post::new("tidegate/v1/behind", "x"));
    assert!(matches!(behind, PubAckReason::Success | PubAckReason::NoMatchingSubscribers));
    let status = operator.run("status", &["--bad"]);
    assert_eq!(status.summary()["gateways"], json!({"as-wanted": GATEWAYS}), "{}", status.errors);
    assert_eq!(status.code, 0);
}
