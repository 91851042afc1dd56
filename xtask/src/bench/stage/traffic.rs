//! `bench traffic`: what watching costs the traffic that crosses a gateway, beside softflowd and pmacctd.

use std::{thread, time::Duration};

use tidegate_tests::{Daemon, Gateway, Process, Scratch, need};

use crate::{
    Plan,
    path::{self, Subject},
    row::Row,
};

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

/// Measures, and returns the rows.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let watchers: Vec<Watcher> = [Watcher::None, Watcher::Tidegate, Watcher::Softflowd, Watcher::Pmacctd]
        .into_iter()
        .filter(|w| w.present())
        .collect();
    path::run("traffic", &watchers, plan)
}

impl Watcher {
    fn present(self) -> bool {
        let present = matches!(self, Self::None | Self::Tidegate) || need::find(self.name()).is_some();
        if !present {
            eprintln!("skipped: {} is not installed (apt-get install softflowd pmacct)", self.name());
        }
        present
    }
}

impl Subject for Watcher {
    type Running = Running;

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tidegate => "tidegate",
            Self::Softflowd => "softflowd",
            Self::Pmacctd => "pmacctd",
        }
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
