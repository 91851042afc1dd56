//! The stage of `cargo xtask demo`: the only part of it that runs with privileges, and it builds nothing.
//!
//! ```text
//!      left host ────────────── gateway ── right host, intruder
//!                                   │
//!   subscriber ── broker ── tap ── tidegate ── link ── receiver
//!   operator ──────┘
//! ```
//!
//! Hosts talk through the gateway, which watches and guards. The broker is on the left host, so that a policy can take it
//! away; without namespaces there are no hosts, and all that is left is on the loopback. Uploads go over a link that breaks to a
//! receiver, both on the gateway's own loopback.
//!
//! Each part is the test harness's, and so is the proof at the end. Everything is taken down by the end of
//! this process, however it comes.

mod broker;
mod feeder;
mod guard;
mod intruder;
mod receiver;
mod screen;
mod traffic;
mod upload;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use tidegate_tests::{Daemon, Gateway, Publisher, Subscriber, Tap, eventually, mqtt::Ledger, need};

use self::{broker::Broker, feeder::Feeder, guard::Guard, screen::Screen, traffic::Traffic, upload::Upload};

#[derive(Parser)]
#[command(about = "Run by `cargo xtask demo`")]
struct Arguments {
    /// Run through once and end
    #[arg(long)]
    once: bool,
    /// Leave out what needs privileges; the reason why
    #[arg(long, value_name = "WHY")]
    unprivileged: Option<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Be the broker, on a loopback port
    Broker { port: u16 },
}

/// How long traffic is watched first, and how long the broker stays away.
const ACT: Duration = Duration::from_secs(3);
/// Most that may pass between the broker's return and the last record's arrival: the daemon's back-off may have
/// grown to several seconds.
const CATCH_UP: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Part::Broker { port }) = arguments.part {
        return broker::serve(port);
    }
    // The harness fails by panics; here their text is for a user.
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no reason given");
        eprintln!("\nFAILED: {text}");
    }));
    let played = std::panic::catch_unwind(|| play(&arguments));
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(_said_by_the_hook) => ExitCode::FAILURE,
    }
}

/// The whole play, in order. Panics where it does not go as announced.
#[expect(clippy::too_many_lines, reason = "the play reads in one function")]
fn play(arguments: &Arguments) {
    let started = Instant::now();
    let mut screen = Screen::new();
    screen.act("The stage");
    let left_out = arguments.unprivileged.clone().or_else(|| need::root().and_then(|()| need::program("ip")).err());
    let net = match left_out {
        None => Some(Gateway::new()),
        Some(why) => {
            screen.say(format_args!("left out, because {why}: network namespaces, traffic, policy, eBPF"));
            None
        }
    };
    let (beside, address) = match &net {
        Some(net) => (Some(&net.left.host), net.left.ipv4),
        None => (None, Ipv4Addr::LOCALHOST),
    };
    let mut broker = Broker::start(beside);
    screen.say(format_args!("an MQTT broker listens on port {}", broker.port()));
    let subscriber = Subscriber::inside(beside, broker.port(), "tidegate/v1/#");
    let tap = Tap::reached_at(address, beside, broker.port());
    let upload = Upload::new(net.as_ref().map(|net| &net.gateway));
    let mut builder = Daemon::builder()
        .mqtt(&format!("url = \"mqtt://{address}:{}\"", tap.port()))
        .log("info")
        .config("[traffic]\nexport_interval = \"2s\"\nsample_rate = 100\n[host]\ninterval = \"5s\"")
        .config(&upload.config());
    if let Some(net) = &net {
        builder = builder.inside(&net.gateway).config(&guard::config());
    }
    let begun = Instant::now();
    let mut daemon = builder.start();
    screen.say(format_args!(
        "tidegate answers after {} ms, with the shipped configuration and these changes:",
        begun.elapsed().as_millis()
    ));
    screen.quote(&std::fs::read_to_string(daemon.scratch().path().join("conf.d/test.toml")).unwrap_or_default());

    screen.act("A local program hands over its data, and hosts talk through the gateway");
    let mut traffic = net.as_ref().map(Traffic::start);
    let feeder = Feeder::start(daemon.ingest_socket());
    screen.follow(&subscriber, ACT);
    screen.status(&daemon);

    screen.act("A signed policy blocks an address");
    let mut guard = None;
    match (&net, &traffic) {
        (Some(net), Some(traffic)) => {
            let operator = Publisher::inside(beside, broker.port());
            let guard = guard.insert(Guard::new(net, operator, SocketAddrV4::new(address, tap.port())));
            guard.blocks_an_address((net, &daemon, &subscriber), traffic, &screen);
            screen.act("A policy that would cut the gateway off is undone");
            guard.undoes_a_lock_out(&daemon, &subscriber, traffic, &screen);
            screen.status(&daemon);
        }
        _ => screen.say("left out, for the reason above: without eBPF no policy is enforced"),
    }

    screen.act("A file is uploaded over a link that breaks twice");
    upload.arrives(&daemon, &subscriber, &screen);

    screen.act("The broker goes away");
    broker.stop();
    let before = feeder.accepted();
    sleep(ACT);
    screen.say(format_args!(
        "meanwhile {} more records were handed over and answered \"ok\": they are on disk",
        feeder.accepted() - before
    ));
    screen.status(&daemon);

    screen.act("The broker comes back, and remembers nothing");
    broker.start_again();
    let returned = Instant::now();
    screen.follow(&subscriber, ACT / 2);
    let accepted = feeder.finish();
    let wanted = accepted.len();
    eventually(CATCH_UP, "every record that was answered \"ok\" arrives", || {
        let arrived = arrived(&subscriber, &tap);
        let there = accepted.iter().filter(|seq| has(&arrived, **seq)).count();
        (there == wanted).then_some(()).ok_or_else(|| format!("{there} of {wanted}"))
    });
    screen.say(format_args!("everything arrived within {:.1} s of its return", returned.elapsed().as_secs_f32()));
    screen.status(&daemon);
    if let Some(guard) = &mut guard {
        guard.outlived_the_broker(&daemon, &screen);
    }
    let traffic = traffic.take().map(Traffic::finish);

    screen.act("Nothing is missing");
    let ledger = arrived(&subscriber, &tap);
    ledger.assert_complete();
    let received = Ledger::of(&subscriber.messages());
    let forgotten = ledger.beyond(&received);
    let (status, took) = daemon.stop(Duration::from_secs(5));
    assert!(status.success(), "the daemon ends with {status}");
    subscriber.wait_for("the gateway says that it is offline", Duration::from_secs(5), |message| {
        message.topic.ends_with("/status") && String::from_utf8_lossy(&message.payload).contains("offline")
    });
    screen.say(format_args!(
        "{wanted} records handed over and answered \"ok\", {wanted} acknowledged by the broker, each in order"
    ));
    screen.say(format_args!(
        "{} records in all, told apart by (epoch, stream, seq): no gap, {} repeated by QoS 1",
        ledger.len(),
        received.duplicates
    ));
    screen.say(format_args!(
        "{forgotten} of them were acknowledged by the broker and forgotten when it was killed, before it passed them on"
    ));
    match traffic {
        Some(sent) => screen.say(format_args!(
            "{} TCP segments and {} UDP datagrams crossed the gateway",
            sent.segments, sent.datagrams
        )),
        None => screen.say("traffic was left out, for the reason above"),
    }
    screen.say(format_args!("the daemon stopped in {} ms and said that it is offline", took.as_millis()));
    screen.say(format_args!("the demo took {} s", started.elapsed().as_secs()));

    if !arguments.once {
        screen.act("The gateway goes on; Ctrl-C ends it");
        daemon.start_again();
        let _traffic = net.as_ref().map(Traffic::start);
        let _feeder = Feeder::start(daemon.ingest_socket());
        loop {
            screen.follow(&subscriber, ACT);
            screen.status(&daemon);
        }
    }
}

/// What reached the subscriber, and what the broker acknowledged and then forgot.
fn arrived(subscriber: &Subscriber, tap: &Tap) -> Ledger {
    let mut messages = tap.acknowledged();
    messages.extend(subscriber.messages());
    Ledger::of(&messages)
}

fn has(ledger: &Ledger, seq: u64) -> bool {
    ledger.stream(feeder::STREAM).any(|record| record.seq == seq)
}
