//! What the traffic source makes of it: records in a spool.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tidegate::{
    config::Config,
    kernel::{Kernel, Options, Started},
    record::{Clock, Stored},
    sources::{
        Sink, lane,
        traffic::{self, TrafficStatus},
    },
    supervisor::Pulse,
};
use tidegate_spool::{IoPreference, LaneOptions, ReadFrom, Spool};
use tidegate_tests::{
    Gateway, Message, Scratch, eventually,
    net::{UdpSender, UdpSink},
    requires,
    schema::Schemas,
};
use tidegate_values::Patterns;
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::needs;

/// The source at work in a gateway, with a spool of its own.
struct Source {
    runtime: Runtime,
    spool: Spool,
    config: watch::Sender<Arc<Config>>,
    status: watch::Receiver<TrafficStatus>,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
    _scratch: Scratch,
}

impl Source {
    fn start(net: &Gateway) -> Self {
        let scratch = Scratch::new("spool");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lane = |name: &str, importance| LaneOptions { name: name.into(), importance, share_bytes: 16 << 20 };
        let options = tidegate_spool::Options {
            dir: scratch.path().join("spool"),
            lanes: vec![lane("event", 2), lane("ingest", 1), lane("telemetry", 0)],
            max_size_bytes: 64 << 20,
            segment_size_bytes: 8 << 20,
            io: IoPreference::Auto,
            direct: false,
        };
        let (spool, _recovery) = runtime.block_on(Spool::open(options)).unwrap();
        let mut config = Config::defaults("gw-test");
        config.traffic.interfaces = Patterns::parse(&["eth*"]).unwrap();
        config.traffic.sample_rate = 1;
        config.traffic.export_interval = Duration::from_secs(1);
        let (config, of_config) = watch::channel(Arc::new(config));
        let (of_status, status) = watch::channel(TrafficStatus::default());
        let shutdown = CancellationToken::new();
        let Started { kernel, events, .. } = net.gateway.enter(|| Kernel::start(Options::default())).unwrap();
        runtime.block_on(kernel.enforce(None)).unwrap();
        let sink = Sink::new(spool.clone(), Clock::of_this_boot());
        let task =
            runtime.spawn(traffic::run(kernel, events, of_config, sink, of_status, Pulse::unasked(), shutdown.clone()));
        let source = Self { runtime, spool, config, status, shutdown, task: Some(task), _scratch: scratch };
        eventually(Duration::from_secs(10), "both interfaces are watched", || source.status().interfaces.len() == 2);
        source
    }

    fn status(&self) -> TrafficStatus {
        self.status.borrow().clone()
    }

    fn stop(&mut self) {
        self.shutdown.cancel();
        self.runtime.block_on(self.task.take().unwrap()).unwrap();
    }

    /// Data of all records of `telemetry/WHAT`, oldest first. Each is held against its schema, in the envelope that it
    /// will be sent in.
    fn telemetry(&self, what: &str) -> Vec<Value> {
        let schemas = Schemas::load();
        let (mut found, mut from) = (Vec::new(), ReadFrom::Cursor);
        loop {
            let entries = self.runtime.block_on(self.spool.read(lane::TELEMETRY, from, 1 << 20)).unwrap();
            let Some(last) = entries.last() else { return found };
            from = ReadFrom::After(last.position);
            for entry in &entries {
                let stored = Stored::decode(&entry.payload).unwrap();
                if stored.topic == format!("telemetry/{what}") {
                    assert!(stored.data.len() <= 64 * 1024, "{} bytes in one part", stored.data.len());
                    let topic = format!("tidegate/v1/gw-test/{}", stored.topic);
                    let wire = stored.envelope("gw-test", &[1; 16], &entry.stream, entry.seq, entry.ts_ms);
                    schemas.assert_valid("gw-test", [&Message { topic, payload: wire.into(), retain: false }]);
                    found.push(serde_json::from_str(stored.data).unwrap());
                }
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.runtime.block_on(self.spool.close());
    }
}

/// Sum of a member of `class` over the entries of all parts that tell of `interface`.
fn sum(parts: &[Value], interface: &str, row: &str, class: &str, member: &str) -> u64 {
    let entries = parts.iter().flat_map(|part| part["interfaces"].as_array().unwrap());
    entries
        .filter(|entry| entry["interface"] == interface)
        .filter_map(|entry| entry[row]["classes"][class][member].as_u64())
        .sum()
}

#[test]
fn deltas_add_up_to_what_was_sent_and_forwarded_packets_are_totalled_once() {
    requires!(needs());
    let net = Gateway::new();
    let mut source = Source::start(&net);
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    for _ in 0..3 {
        for _ in 0..100 {
            sender.send(&[7; 100]);
        }
        std::thread::sleep(Duration::from_millis(700));
    }
    source.stop();

    let parts = source.telemetry("traffic");
    assert!(parts.len() >= 3, "an export each second: {parts:#?}");
    let last = parts.last().unwrap();
    let latest = std::slice::from_ref(last);
    for (interface, row) in [("eth0", "ingress"), ("eth1", "egress_forwarded")] {
        assert_eq!(sum(&parts, interface, row, "ipv4_udp", "packets_delta"), 300, "{interface}");
        assert_eq!(sum(latest, interface, row, "ipv4_udp", "packets"), 300, "{interface}");
        assert_eq!(sum(latest, interface, row, "ipv4_udp", "bytes"), 300 * 142, "{interface}");
    }
    assert_eq!(last["total"]["classes"]["ipv4_udp"]["packets"], 300, "{last:#}");
    assert_eq!((&last["samples"]["lost"], &last["last"]), (&0.into(), &true.into()), "{last:#}");

    let flows = source.telemetry("flows");
    let of_sender: Vec<&Value> = flows
        .iter()
        .flat_map(|part| part["flows"].as_array().unwrap())
        .filter(|flow| flow["source_port"] == sender.local().port())
        .collect();
    let packets = |interface: &str| -> u64 {
        let of_interface = of_sender.iter().filter(|flow| flow["interface"] == interface);
        of_interface.map(|flow| flow["packets"]["estimate"].as_u64().unwrap()).sum()
    };
    assert_eq!((packets("eth0"), packets("eth1")), (300, 300), "each sample in one flow of one export");
    let now_ms = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let seen_ms = of_sender[0]["first_ts_ms"].as_u64().unwrap();
    assert!(seen_ms <= now_ms && now_ms - seen_ms < 60_000, "{seen_ms} is a time of day");

    let cost = source.telemetry("ebpf");
    let cost = cost.last().unwrap();
    assert_eq!(cost["abi"], tidegate_abi::ABI_VERSION, "{cost:#}");
    assert!(cost["map_memory_bytes"].as_u64().unwrap() > 100_000, "{cost:#}");
}

#[test]
fn keys_take_effect_while_it_runs() {
    requires!(needs());
    let net = Gateway::new();
    let source = Source::start(&net);
    let change = |change: &dyn Fn(&mut Config)| {
        source.config.send_modify(|config| change(Arc::make_mut(config)));
    };
    change(&|config| config.traffic.sample_rate = 0);
    change(&|config| config.traffic.attach = tidegate::config::Attach::Netlink);
    change(&|config| config.traffic.interfaces = Patterns::parse(&["eth1"]).unwrap());
    eventually(Duration::from_secs(5), "the keys took effect", || {
        let status = source.status();
        let names: Vec<_> = status.interfaces.iter().map(|interface| interface.interface.as_str()).collect();
        let attach = serde_json::to_value(status.attach).unwrap();
        if names == ["eth1"] && status.sample_rate == 0 && attach == "netlink" {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert!(net.gateway.run("tc filter show dev eth1 ingress").contains("tidegate_ingress"));
    assert!(!net.gateway.run("tc filter show dev eth0 ingress").contains("tidegate_ingress"));
    let before = source.telemetry("flows").len();
    change(&|config| config.traffic.export_interval = Duration::from_hours(1));
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(source.telemetry("flows").len() <= before + 1, "no export any more");
}

#[test]
fn flows_are_drained_while_the_spool_takes_nothing_and_dropped_records_are_counted() {
    requires!(needs());
    let net = Gateway::new();
    let source = Source::start(&net);
    source.runtime.block_on(source.spool.close());
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    for _ in 0..3 {
        let mut sender = UdpSender::connect(&net.left.host, sink.address());
        sender.send(b"x");
        std::thread::sleep(Duration::from_secs(1));
    }
    eventually(Duration::from_secs(5), "records are dropped and counted, and flows still drained", || {
        let status = source.status();
        let samples = status.samples;
        let settled = samples.drained >= 6 && samples.lost == 0 && status.dropped_records >= 3;
        if settled { Ok(()) } else { Err(format!("{status:?}")) }
    });
}
