//! The path through a gateway, from one host to another: how much it carries, how soon, and what that costs.
//!
//! What stands on the path is started anew for each measurement. Each round takes each in turn, the first of the round another
//! one each time, so that a slow minute of the machine is spread over all of them.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Gateway, Netns, Process,
    net::{UdpSender, UdpSink},
};

use crate::{
    Plan,
    row::{Row, busy, summary},
};

/// Payload of a 64-byte Ethernet frame: 64 − 14 (Ethernet) − 20 (IPv4) − 8 (UDP) − 4 (FCS).
const SMALLEST_PAYLOAD: usize = 18;

/// What stands on the path, or nothing, which is the reference.
pub(crate) trait Subject: Copy + PartialEq {
    /// What runs; it stops when dropped.
    type Running;

    /// As it stands in a case's name; `none` where nothing does.
    fn name(self) -> &'static str;

    /// Starts it on the gateway, settled.
    fn start(self, net: &Gateway) -> Self::Running;
}

/// Of one subject, a figure each round.
#[derive(Default)]
pub(crate) struct Figures {
    gbit_per_second: Vec<f64>,
    busy_seconds_per_gb: Vec<f64>,
    packets_per_second: Vec<f64>,
    p99_us: Vec<f64>,
}

/// Measures all of them, says on standard error how far it is, and returns the rows; the first one is the reference.
pub(crate) fn run<S: Subject>(bench: &'static str, subjects: &[S], plan: Plan) -> Vec<Row> {
    let net = Gateway::new();
    let server = Process::start("iperf3", {
        let mut command = net.right.host.command("iperf3");
        command.args(["--server", "--forceflush"]);
        command
    });
    server.wait_for_line("Server listening", Duration::from_secs(10));
    let mut figures: Vec<Figures> = subjects.iter().map(|_| Figures::default()).collect();
    for round in 0..plan.rounds {
        for turn in 0..subjects.len() {
            let index = (round + turn) % subjects.len();
            let subject = subjects[index];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, subject.name());
            let running = subject.start(&net);
            measure(&net, plan.window, &mut figures[index]);
            drop(running);
        }
    }
    rows(bench, subjects, &figures)
}

fn measure(net: &Gateway, window: Duration, figures: &mut Figures) {
    let before = busy();
    match bulk(net, window) {
        Ok((bytes, seconds)) => {
            let spent = busy().saturating_sub(before).as_secs_f64();
            figures.gbit_per_second.push(bytes * 8.0 / seconds / 1e9);
            figures.busy_seconds_per_gb.push(spent / (bytes / 1e9));
        }
        Err(error) => eprintln!("iperf3: {error}"),
    }
    figures.packets_per_second.push(small_packets(net, window));
    figures.p99_us.push(ping_pong(net, window));
}

/// One TCP stream; bytes received and the seconds it took.
fn bulk(net: &Gateway, window: Duration) -> Result<(f64, f64), String> {
    let mut command: Command = net.left.host.command("iperf3");
    command.args(["--client", &net.right.ipv4.to_string(), "--json", "--time", &window.as_secs().max(1).to_string()]);
    let output = command.output().map_err(|error| error.to_string())?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let received = &report["end"]["sum_received"];
    match (received["bytes"].as_f64(), received["seconds"].as_f64()) {
        (Some(bytes), Some(seconds)) if bytes > 0.0 => Ok((bytes, seconds)),
        _ => Err(report["error"].as_str().unwrap_or("no figures in its report").to_owned()),
    }
}

/// 64-byte frames, as many as one sender gets out: on a veth pair the sender's system call carries the packet
/// all the way through the gateway, so its rate is the rate of the path.
fn small_packets(net: &Gateway, window: Duration) -> f64 {
    let sink = UdpSink::open(&net.right.host, net.right.ipv4.into());
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    let started = Instant::now();
    while started.elapsed() < window {
        for _ in 0..256 {
            sender.send(&[0; SMALLEST_PAYLOAD]);
        }
    }
    sender.datagrams as f64 / started.elapsed().as_secs_f64()
}

/// A datagram to the other host and back, one at a time: the 99th percentile of the round trips.
fn ping_pong(net: &Gateway, window: Duration) -> f64 {
    let echo = bound(&net.right.host, net.right.ipv4.into()).expect("a free port");
    let ask = bound(&net.left.host, net.left.ipv4.into()).expect("a free port");
    let patience = Some(Duration::from_millis(200));
    echo.set_read_timeout(patience).and_then(|()| ask.set_read_timeout(patience)).expect("not zero");
    let to = echo.local_addr().expect("a bound socket has an address");
    let mut trips = Vec::new();
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let mut buffer = [0; 64];
            let until = Instant::now() + window + Duration::from_millis(300);
            while Instant::now() < until {
                if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                    let _lost = echo.send_to(&buffer[..length], from);
                }
            }
        });
        let started = Instant::now();
        let mut buffer = [0; 64];
        while started.elapsed() < window {
            let sent = Instant::now();
            if ask.send_to(&[0; SMALLEST_PAYLOAD], to).is_ok() && ask.recv(&mut buffer).is_ok() {
                trips.push(sent.elapsed().as_secs_f64() * 1e6);
            }
        }
        answering.join().expect("the echo does not panic");
    });
    trips.sort_by(f64::total_cmp);
    trips.get(trips.len() * 99 / 100).copied().unwrap_or(f64::NAN)
}

fn bound(host: &Netns, address: IpAddr) -> io::Result<UdpSocket> {
    host.enter(|| UdpSocket::bind(SocketAddr::new(address, 0)))
}

fn rows<S: Subject>(bench: &'static str, subjects: &[S], figures: &[Figures]) -> Vec<Row> {
    type Pick = fn(&Figures) -> &Vec<f64>;
    let groups: [(&str, &'static str, Pick); 4] = [
        ("throughput", "Gbit/s", |f| &f.gbit_per_second),
        ("cpu", "s/GB", |f| &f.busy_seconds_per_gb),
        ("pps", "packets/s", |f| &f.packets_per_second),
        ("latency", "us p99", |f| &f.p99_us),
    ];
    let mut rows = Vec::new();
    for (group, unit, pick) in groups {
        let (none, _) = summary(pick(&figures[0]).clone());
        for (subject, figures) in subjects.iter().zip(figures) {
            let (mut value, mut range) = summary(pick(figures).clone());
            let is_reference = *subject == subjects[0];
            // Processor time is what is added to the traffic's own.
            if group == "cpu" && !is_reference {
                (value, range) = (value - none, (range.0 - none, range.1 - none));
            }
            rows.push(Row {
                bench,
                case: format!("{group}/{}", subject.name()),
                value,
                range,
                unit,
                reference: (!is_reference).then(|| ("none".to_owned(), none)),
            });
        }
    }
    rows
}
