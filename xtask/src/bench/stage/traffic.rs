//! `bench traffic`: what watching costs the traffic that crosses a gateway, beside softflowd and pmacctd.
//!
//! Two hosts send through a gateway of three network namespaces. Each round takes each watcher in turn, the
//! first of the round another one each time, so that a slow minute of the machine is spread over all of them.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Daemon, Gateway, Netns, Process, Scratch, need,
    net::{UdpSender, UdpSink},
};

use crate::{
    Plan,
    row::{Row, busy, summary},
};

/// Payload of a 64-byte Ethernet frame: 64 − 14 (Ethernet) − 20 (IPv4) − 8 (UDP) − 4 (FCS).
const SMALLEST_PAYLOAD: usize = 18;

/// What watches the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watcher {
    None,
    Tidegate,
    Softflowd,
    Pmacctd,
}

/// Running watchers; they stop when dropped.
#[derive(Default)]
struct Running {
    daemon: Option<Daemon>,
    processes: Vec<Process>,
    scratch: Option<Scratch>,
}

#[derive(Default)]
struct Figures {
    gbit_per_second: Vec<f64>,
    busy_seconds_per_gb: Vec<f64>,
    packets_per_second: Vec<f64>,
    p99_us: Vec<f64>,
}

/// Measures, says on standard error how far it is, and returns the rows.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let watchers: Vec<Watcher> = [Watcher::None, Watcher::Tidegate, Watcher::Softflowd, Watcher::Pmacctd]
        .into_iter()
        .filter(|w| w.present())
        .collect();
    let net = Gateway::new();
    let server = Process::start("iperf3", {
        let mut command = net.right.host.command("iperf3");
        command.args(["--server", "--forceflush"]);
        command
    });
    server.wait_for_line("Server listening", Duration::from_secs(10));
    let mut figures: Vec<Figures> = watchers.iter().map(|_| Figures::default()).collect();
    for round in 0..plan.rounds {
        for turn in 0..watchers.len() {
            let index = (round + turn) % watchers.len();
            let watcher = watchers[index];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, watcher.name());
            let running = watcher.start(&net);
            measure(&net, plan.window, &mut figures[index]);
            drop(running);
        }
    }
    rows(&watchers, &figures)
}

impl Watcher {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tidegate => "tidegate",
            Self::Softflowd => "softflowd",
            Self::Pmacctd => "pmacctd",
        }
    }

    fn present(self) -> bool {
        let present = matches!(self, Self::None | Self::Tidegate) || need::find(self.name()).is_some();
        if !present {
            eprintln!("skipped: {} is not installed (apt-get install softflowd pmacct)", self.name());
        }
        present
    }

    /// Starts it on both interfaces of the gateway and gives it a second to settle.
    fn start(self, net: &Gateway) -> Running {
        let scratch = Scratch::new("bench");
        let mut running = Running::default();
        let interfaces = [net.left.interface, net.right.interface];
        match self {
            Self::None => {}
            Self::Tidegate => running.daemon = Some(Daemon::builder().inside(&net.gateway).start()),
            Self::Softflowd => {
                for interface in interfaces {
                    let mut command = net.gateway.command("softflowd");
                    // In the foreground, exporting to a port where nobody listens; control socket off the default.
                    command.args(["-d", "-i", interface, "-n", "127.0.0.1:9995", "-t", "maxlife=10"]);
                    command.arg("-c").arg(scratch.path().join(format!("{interface}.ctl")));
                    command.arg("-p").arg(scratch.path().join(format!("{interface}.pid")));
                    running.processes.push(Process::start("softflowd", command));
                }
            }
            Self::Pmacctd => {
                for interface in interfaces {
                    let mut command = net.gateway.command("pmacctd");
                    command.args(["-i", interface, "-P", "memory"]);
                    command.args(["-c", "src_host,dst_host,src_port,dst_port,proto"]);
                    command.arg("-o").arg(scratch.path().join(format!("{interface}.pipe")));
                    running.processes.push(Process::start("pmacctd", command));
                }
            }
        }
        thread::sleep(Duration::from_secs(1));
        running.scratch = Some(scratch);
        running
    }
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

fn rows(watchers: &[Watcher], figures: &[Figures]) -> Vec<Row> {
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
        for (watcher, figures) in watchers.iter().zip(figures) {
            let (mut value, mut range) = summary(pick(figures).clone());
            let is_reference = *watcher == Watcher::None;
            // Processor time is what watching adds to the traffic's own.
            if group == "cpu" && !is_reference {
                (value, range) = (value - none, (range.0 - none, range.1 - none));
            }
            rows.push(Row {
                bench: "traffic",
                case: format!("{group}/{}", watcher.name()),
                value,
                range,
                unit,
                reference: (!is_reference).then(|| ("none".to_owned(), none)),
            });
        }
    }
    rows
}
