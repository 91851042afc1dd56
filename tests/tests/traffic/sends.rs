//! Time spent in `tcp_sendmsg`, or the reason for not knowing it.

use std::{io::Write as _, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tidegate_tests::{Daemon, Netns, eventually, requires};

use crate::needs;

fn daemon(namespace: &Netns, timed: bool) -> Daemon {
    Daemon::builder()
        .inside(namespace)
        .config(&format!("[traffic]\ninterfaces = [\"lo\"]\nattach = \"auto\"\ntime_tcp_sendmsg = {timed}"))
        .start()
}

#[test]
fn sending_is_timed_where_the_kernel_has_tracing_programs_and_else_told_why_not() {
    const LINES: u64 = 200;
    requires!(needs());
    let host = Netns::new("host");
    let daemon = daemon(&host, true);
    let traffic = eventually(Duration::from_secs(10), "it was tried", || {
        let traffic = daemon.status()["traffic"].clone();
        let tried = traffic["tcp_sendmsg"].is_object() || traffic["tcp_sendmsg_unavailable"].is_object();
        if tried { Ok(traffic) } else { Err(format!("{traffic:#}")) }
    });
    assert_eq!(traffic["interfaces"][0]["interface"], "lo", "traffic is watched whatever becomes of the timing");
    if let Some(why) = traffic["tcp_sendmsg_unavailable"]["why"].as_str() {
        assert!(why.contains("tcp_sendmsg"), "{why}");
        assert_eq!(traffic["tcp_sendmsg"], Value::Null);
        assert_eq!(traffic["unavailable"], serde_json::json!([]), "that is no problem of the gateway's");
        tidegate_tests::skip!("{why}");
    }
    let listener = host.enter(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let mut stream = host.enter(|| std::net::TcpStream::connect(address)).unwrap();
    let count = |daemon: &Daemon| daemon.status()["traffic"]["tcp_sendmsg"]["count"].as_u64().unwrap_or_default();
    let before = count(&daemon);
    for _ in 0..LINES {
        stream.write_all(b"line\n").unwrap();
    }
    // Other programs of the machine send, too.
    eventually(Duration::from_secs(10), "the calls are counted", || {
        let now = count(&daemon) - before;
        if now >= LINES { Ok(()) } else { Err(format!("{now} of {LINES}")) }
    });
    let sends = daemon.status()["traffic"]["tcp_sendmsg"].clone();
    let in_buckets: u64 =
        sends["buckets"].as_array().unwrap().iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
    assert_eq!(sends["count"], in_buckets, "{sends:#}");
    assert!(sends["sum_ns"].as_u64().unwrap() > 100 * in_buckets, "a call takes more than 100 ns: {sends:#}");
}

#[test]
fn sending_is_not_timed_where_nobody_wants_it() {
    requires!(needs());
    let host = Netns::new("host");
    let daemon = daemon(&host, false);
    eventually(Duration::from_secs(10), "lo is watched", || {
        daemon.status()["traffic"]["interfaces"].as_array().is_some_and(|watched| !watched.is_empty())
    });
    let traffic = &daemon.status()["traffic"];
    assert_eq!((&traffic["tcp_sendmsg"], &traffic["tcp_sendmsg_unavailable"]), (&Value::Null, &Value::Null));
    assert!(!daemon.log().iter().any(|line| line.contains("tcp_sendmsg")), "{:?}", daemon.log());
}
