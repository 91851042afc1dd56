//! `bench policy`: what a policy of 65,536 prefixes costs the traffic that it lets pass, beside nft with a set of the same.
//!
//! Each packet is judged twice, by its source where it enters and by its destination where it leaves; nft is asked for both,
//! too. How soon a policy is enforced, `tidegate bench policy` tells.

use std::{fmt::Write as _, fs, io::Write as _, process::Stdio, thread, time::Duration};

use tidegate_tests::{
    Daemon, Gateway, Netns, Scratch, need,
    policy::{Key, Policy},
};

use crate::{
    Plan,
    footprint::resident,
    path::{self, Subject},
    row::{Row, summary},
};

const PREFIXES: u32 = 65_536;
/// Whose signatures count.
const KEY: Key = Key::numbered(1);

/// What guards the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    None,
    Tidegate,
    Nft,
}

/// What is in force until this is dropped.
#[derive(Default)]
struct Running {
    _daemon: Option<Daemon>,
    _table: Option<Table>,
}

/// A table of nft in a namespace.
struct Table(Netns);

/// Measures, and returns the rows.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let mut guards = vec![Guard::None, Guard::Tidegate];
    if need::find("nft").is_some() {
        guards.push(Guard::Nft);
    } else {
        eprintln!("skipped: nft is not installed (apt-get install nftables)");
    }
    let mut rows = path::run("policy", &guards, plan);
    rows.extend(memory(plan));
    rows
}

impl Subject for Guard {
    type Running = Running;

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tidegate => "tidegate/65536",
            Self::Nft => "nft/65536",
        }
    }

    fn start(self, net: &Gateway) -> Running {
        let running = match self {
            Self::None => Running::default(),
            Self::Tidegate => Running { _daemon: Some(tidegate(net)), ..Running::default() },
            Self::Nft => Running { _table: Some(Table::fill(&net.gateway)), ..Running::default() },
        };
        thread::sleep(Duration::from_secs(1));
        running
    }
}

/// With the policy in force.
fn tidegate(net: &Gateway) -> Daemon {
    let daemon = unguarded(net);
    apply(&daemon, 1);
    daemon
}

fn unguarded(net: &Gateway) -> Daemon {
    Daemon::builder().inside(&net.gateway).config(&format!("[policy]\npublic_keys = [\"{}\"]\n", KEY.literal())).start()
}

/// Puts a policy in force, vouched for as by a technician without a link: no broker takes part.
fn apply(daemon: &Daemon, version: u64) {
    let file = daemon.scratch().path().join("policy.json");
    let policy = Policy::new(version).gateway("gw-test").drop_many("blocked", PREFIXES);
    fs::write(&file, policy.signed_by(&KEY)).expect("the scratch folder is ours");
    let mut command = daemon.command(&["policy", "apply", "--offline", &file.display().to_string()]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("run tidegate");
    child.stdin.take().expect("it is piped").write_all(b"yes\n").expect("it asks whether all is well");
    let status = child.wait().expect("it is ours");
    let enforced = daemon.status()["bundles"]["enforced"]["version"].clone();
    assert!(status.success() && enforced == version, "tidegate policy apply: {status}, in force is {enforced}");
}

/// What the daemon takes at most while it loads the policy, and while another one replaces it, above what it takes idle.
fn memory(plan: Plan) -> Vec<Row> {
    let net = Gateway::new();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        eprintln!("round {} of {}: memory", round + 1, plan.rounds);
        let daemon = unguarded(&net);
        thread::sleep(plan.window.max(Duration::from_secs(3)));
        let pid = daemon.status()["pid"].as_u64().expect("the status has it");
        let idle = resident(pid, "VmRSS");
        for (version, peaks) in [(1, &mut first), (2, &mut second)] {
            // proc_pid_clear_refs(5): the peak is what is resident now.
            fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the daemon runs");
            apply(&daemon, version);
            peaks.push(resident(pid, "VmHWM") - idle);
        }
    }
    let row = |case: &str, figures| {
        let (value, range) = summary(figures);
        let reference = Some(("the budget".to_owned(), 16.0));
        Row { bench: "policy", case: case.to_owned(), value, range, unit: "MiB", reference }
    };
    vec![row("memory/load", first), row("memory/replace", second)]
}

impl Table {
    /// Drops all from and to the same addresses.
    fn fill(namespace: &Netns) -> Self {
        let scratch = Scratch::new("nft");
        let mut text = "table inet bench {\nset blocked { type ipv4_addr; flags interval; }\n\
                        chain forward { type filter hook forward priority 0;\nip saddr @blocked drop\nip daddr @blocked drop\n}\n}\n\
                        add element inet bench blocked { "
            .to_owned();
        for address in Policy::many(PREFIXES) {
            let _infallible = write!(text, "{address},");
        }
        text.push_str("}\n");
        let file = scratch.path().join("policy.nft");
        fs::write(&file, text).expect("the scratch folder is ours");
        let status = namespace.command("nft").arg("-f").arg(&file).status().expect("run nft");
        assert!(status.success(), "nft -f: {status}");
        Self(namespace.clone())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let status = self.0.command("nft").args(["delete", "table", "inet", "bench"]).status();
        assert!(status.is_ok_and(|status| status.success()), "nft delete table");
    }
}
