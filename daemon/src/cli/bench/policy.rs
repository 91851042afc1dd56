//! `tidegate bench policy`: how soon a policy that has been received is enforced, beside what nft and ipset need for the
//! same addresses.
//!
//! Everything that stands between a message and the first packet that is judged anew is done as the daemon does it, but for
//! what it waits for: its turn, and the disk, which has to have the envelope and the attempt before. No interface is attached, and the references run in
//! a network namespace of their own, so that the machine's traffic meets none of it.

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    io::Write as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};
use tidegate_values::Digest;
use tokio::{runtime, time::sleep};

use crate::{
    kernel::{self, Enforced, Generation, Kernel, OnStop, Started},
    order::sort,
    policy::{self, compile, envelope, keys::Keyring, read},
};

/// Prefixes of the largest policy there is.
const MOST: u32 = 65_536;
/// Until nobody uses the generation before any more, and the next switch need not wait for that: the kernel takes 6 to 50 ms.
const RETIRED: Duration = Duration::from_millis(100);
/// Seed of a key that signs nothing else.
const SEED: [u8; 32] = *b"only for measuring: worth naught";

/// Measures all cases and prints them.
pub(super) fn run(rounds: usize, json: bool) -> ExitCode {
    match measure(rounds) {
        Ok(lines) => {
            if !json {
                println!(
                    "{:<22}{:>10}  {:<4}{:<16}{:>12}{:>8}",
                    "case", "value", "unit", "reference", "value", "ratio"
                );
            }
            for line in lines {
                println!("{}", if json { line.json().to_string() } else { line.row() });
            }
            if !json {
                println!("median of {rounds} rounds; received → enforced, no interface attached");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench policy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What figures are told in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Milliseconds,
    /// Of a packet.
    Nanoseconds,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Nanoseconds => "ns",
        }
    }

    fn of(self, took: Duration) -> f64 {
        match self {
            Self::Milliseconds => took.as_secs_f64() * 1e3,
            Self::Nanoseconds => took.as_secs_f64() * 1e9,
        }
    }
}

/// One figure.
#[derive(Debug, PartialEq)]
struct Line {
    case: String,
    took: Duration,
    unit: Unit,
    reference: Option<(&'static str, Duration)>,
}

impl Line {
    fn json(&self) -> Value {
        let value = |took| self.unit.of(took);
        let mut line =
            json!({ "bench": "policy", "case": self.case, "value": value(self.took), "unit": self.unit.name() });
        if let Some((name, took)) = self.reference {
            line["reference"] = json!(name);
            line["reference_value"] = json!(value(took));
            line["ratio"] = json!(self.took.div_duration_f64(took));
        }
        line
    }

    fn row(&self) -> String {
        let mut row = format!("{:<22}{:>10.3}  {:<6}", self.case, self.unit.of(self.took), self.unit.name());
        if let Some((name, took)) = self.reference {
            let (value, ratio) = (self.unit.of(took), self.took.div_duration_f64(took));
            let _infallible = write!(row, "{name:<16}{value:>12.3}{ratio:>8.3}");
        }
        row
    }
}

/// A policy of so many prefixes.
#[derive(Clone, Copy)]
struct Subject {
    prefixes: u32,
    /// A rule for each prefix, instead of one for all.
    apart: bool,
    /// Whether one prefix is another.
    changed: bool,
}

impl Subject {
    /// Prefixes of 25 to 32 bits that do not overlap, which nft's sets refuse: each in a /24 of its own, scattered over
    /// 11.0.0.0 to 126.255.255.255.
    fn prefixes(self) -> impl Iterator<Item = (u32, u32)> {
        // Knuth's multiplicative hash; 7,602,176 /24 are 116 * 2^16, which it is coprime to.
        let scattered =
            |index: u32| u32::try_from(u64::from(index) * 2_654_435_761 % 7_602_176).expect("less than 2^23");
        (0..self.prefixes).map(move |index| {
            let place = if self.changed && index == self.prefixes / 2 { MOST } else { index };
            let length = 25 + place % 8;
            ((11 << 24) + (scattered(place) << 8), length)
        })
    }

    fn texts(self) -> impl Iterator<Item = String> {
        self.prefixes().map(|(address, length)| format!("{}/{length}", std::net::Ipv4Addr::from(address)))
    }

    /// As it is published.
    fn envelope(self, version: u64) -> String {
        let mut rules = String::new();
        if self.apart {
            for (index, prefix) in self.texts().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let _infallible = write!(rules, r#"{comma}{{"name":"{index}","cidrs":["{prefix}"],"action":"drop"}}"#);
            }
        } else {
            let prefixes: Vec<_> = self.texts().map(|prefix| format!("\"{prefix}\"")).collect();
            rules = format!(r#"{{"name":"blocked","cidrs":[{}],"action":"drop"}}"#, prefixes.join(","));
        }
        let bundle =
            format!(r#"{{"version":{version},"scope":{{"gateway":"bench"}},"default":"allow","rules":[{rules}]}}"#);
        envelope::sign(bundle.as_bytes(), &[signer()])
    }
}

fn signer() -> envelope::Signer {
    envelope::Signer::from_seed(&SEED)
}

/// Where the time between a message and the first packet that is judged by it goes.
#[derive(Clone, Copy, Default)]
struct Split {
    verify: Duration,
    parse: Duration,
    compile: Duration,
    enforced: Enforced,
    whole: Duration,
}

async fn enforce(kernel: &Kernel, envelope: &[u8], keys: &Keyring) -> Result<Split, String> {
    let began = Instant::now();
    let _known_by = black_box(Digest::of(envelope));
    let opened = envelope::open(envelope, keys, None).map_err(|refused| refused.to_string())?;
    let verified = Instant::now();
    let bundle = read(opened.payload()).map_err(|refused| refused.to_string())?;
    let parsed = Instant::now();
    let options = policy::Options { number: 0, fragments_allow: false, expired: &|_| false };
    let tables = compile(&bundle, &options).map_err(|error| error.to_string())?;
    let generation = Generation::new(&bundle, tables).map_err(|error| error.to_string())?;
    let compiled = Instant::now();
    let enforced = kernel.enforce(Some(Box::new(generation))).await.map_err(|error| error.to_string())?;
    let whole = began.elapsed();
    Ok(Split { verify: verified - began, parse: parsed - verified, compile: compiled - parsed, enforced, whole })
}

fn measure(rounds: usize) -> Result<Vec<Line>, String> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let Started { kernel, .. } =
        Kernel::start(kernel::Options::default()).map_err(|error| format!("starting the kernel side: {error}"))?;
    let mut keys = Keyring::default();
    keys.add(signer().key);
    let lines: Result<_, String> = runtime.block_on(async {
        kernel.enforce(None).await.map_err(|error| error.to_string())?;
        let mut lines = Vec::new();
        for prefixes in [1_024, 16_384, MOST] {
            let splits = repeat(&kernel, &keys, rounds, |_| Subject { prefixes, apart: false, changed: false }).await?;
            let reference = Reference::run(rounds, Subject { prefixes, apart: false, changed: false })?;
            lines.extend(reference.lines(
                &format!("apply/{prefixes}"),
                median(&splits, |split| split.whole),
                |times| times.apply,
            ));
            if prefixes == MOST {
                lines.extend(parts(&splits));
            }
        }
        let splits =
            repeat(&kernel, &keys, rounds, |_| Subject { prefixes: MOST, apart: true, changed: false }).await?;
        lines.push(alone("apply/65536-rules", median(&splits, |split| split.whole)));
        let change = |round: usize| Subject { prefixes: MOST, apart: false, changed: round % 2 == 1 };
        let splits = repeat(&kernel, &keys, rounds, change).await?;
        let reference = Reference::run(rounds, change(0))?;
        lines.extend(reference.lines("change/1-of-65536", median(&splits, |split| split.whole), |times| times.change));
        let switch = |split: &Split| split.enforced.load + split.enforced.switch;
        lines.push(alone("switch/65536", median(&splits, switch)));
        Ok(lines)
    });
    runtime.block_on(kernel.stop(OnStop::Open));
    let mut lines: Vec<Line> = lines?;
    let lookups =
        kernel::bench::lookups().map_err(|unavailable| format!("{}: {}", unavailable.what, unavailable.why))?;
    for (case, ns) in [("lookup/hit", lookups.hit_ns), ("lookup/miss", lookups.miss_ns)] {
        lines.push(Line { unit: Unit::Nanoseconds, ..alone(case, Duration::from_nanos(ns)) });
    }
    Ok(lines)
}

/// The first round finds nothing in force, as a gateway seldom does; it is not counted.
async fn repeat(
    kernel: &Kernel,
    keys: &Keyring,
    rounds: usize,
    subject: impl Fn(usize) -> Subject,
) -> Result<Vec<Split>, String> {
    let mut splits = Vec::new();
    for round in 0..=rounds {
        let envelope = subject(round).envelope(1 + round as u64);
        splits.push(enforce(kernel, envelope.as_bytes(), keys).await?);
        sleep(RETIRED).await;
    }
    splits.remove(0);
    Ok(splits)
}

fn parts(splits: &[Split]) -> Vec<Line> {
    vec![
        alone("verify/65536", median(splits, |split| split.verify)),
        alone("parse/65536", median(splits, |split| split.parse)),
        alone("compile/65536", median(splits, |split| split.compile)),
        alone("load/65536", median(splits, |split| split.enforced.load)),
    ]
}

fn alone(case: &str, took: Duration) -> Line {
    Line { case: case.to_owned(), took, unit: Unit::Milliseconds, reference: None }
}

fn median<T>(all: &[T], of: impl Fn(&T) -> Duration) -> Duration {
    let mut all: Vec<_> = all.iter().map(of).collect();
    sort(&mut all);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// What another program needed.
struct Reference {
    /// Program, and its times; `None` where it is not installed or the kernel lacks what it needs.
    programs: Vec<(&'static str, Times)>,
}

#[derive(Clone, Copy)]
struct Times {
    /// All of them in place of those before, in one transaction.
    apply: Duration,
    /// One of them.
    change: Duration,
}

impl Reference {
    fn run(rounds: usize, subject: Subject) -> Result<Self, String> {
        let scope = std::thread::spawn(move || {
            // SAFETY: nothing but the network namespace of this thread changes, which has no sockets.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| format!("a network namespace: {error}"))?;
            let folder = tempdir()?;
            let programs = [("nft -f", nft as fn(_, _, _) -> _), ("ipset restore", ipset)];
            let found = programs.into_iter().filter_map(|(name, run)| match run(&folder, rounds, subject) {
                Ok(times) => Some((name, times)),
                Err(why) => {
                    eprintln!("skipped: {name}: {why}");
                    None
                }
            });
            let found = Self { programs: found.collect() };
            let _left = fs::remove_dir_all(&folder);
            Ok(found)
        });
        scope.join().expect("the references do not panic")
    }

    /// A line for each program, or one without any.
    fn lines(&self, case: &str, took: Duration, of: impl Fn(&Times) -> Duration) -> Vec<Line> {
        if self.programs.is_empty() {
            return vec![alone(case, took)];
        }
        let line =
            |(name, times): &(&'static str, Times)| Line { reference: Some((*name, of(times))), ..alone(case, took) };
        self.programs.iter().map(line).collect()
    }
}

fn tempdir() -> Result<std::path::PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// A set of the same addresses that a chain drops by, flushed and filled again in one transaction.
fn nft(folder: &Path, rounds: usize, subject: Subject) -> Result<Times, String> {
    let file = folder.join("policy.nft");
    let write = |text: String| fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()));
    let run = || timed(Command::new("nft").arg("-f").arg(&file));
    let elements = subject.texts().collect::<Vec<_>>().join(",");
    write(
        "table inet bench {\nset blocked { type ipv4_addr; flags interval; }\n\
         chain input { type filter hook input priority 0; ip saddr @blocked drop; }\n}\n"
            .to_owned(),
    )?;
    run()?;
    write(format!("flush set inet bench blocked\nadd element inet bench blocked {{ {elements} }}\n"))?;
    // The first fills an empty set.
    run()?;
    let apply = (0..rounds).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    let place = subject.prefixes as usize / 2;
    let of = |changed| Subject { changed, ..subject }.texts().nth(place).unwrap_or_default();
    let change = (0..rounds).map(|round| {
        let (old, new) = (of(round % 2 == 1), of(round % 2 == 0));
        write(format!("delete element inet bench blocked {{ {old} }}\nadd element inet bench blocked {{ {new} }}\n"))?;
        run()
    });
    let change = change.collect::<Result<Vec<_>, _>>()?;
    Ok(Times { apply: median(&apply, |took| *took), change: median(&change, |took| *took) })
}

/// A set beside the one in use, filled, then swapped with it, as its manual advises.
fn ipset(_: &Path, rounds: usize, subject: Subject) -> Result<Times, String> {
    let restore = |lines: &str| {
        let mut command = Command::new("ipset");
        command.arg("restore").stdin(Stdio::piped());
        timed_with(&mut command, lines.as_bytes())
    };
    let create = |name| format!("create {name} hash:net family inet maxelem {}\n", 2 * MOST);
    restore(&create("blocked"))?;
    let mut lines = create("next");
    for prefix in subject.texts() {
        let _infallible = writeln!(lines, "add next {prefix}");
    }
    lines.push_str("swap next blocked\ndestroy next\n");
    let apply = (0..rounds).map(|_| restore(&lines)).collect::<Result<Vec<_>, _>>()?;
    let place = subject.prefixes as usize / 2;
    let of = |changed| Subject { changed, ..subject }.texts().nth(place).unwrap_or_default();
    let change = (0..rounds).map(|round| {
        let (old, new) = (of(round % 2 == 1), of(round % 2 == 0));
        restore(&format!("add blocked {new}\ndel blocked {old}\n"))
    });
    let change = change.collect::<Result<Vec<_>, _>>()?;
    Ok(Times { apply: median(&apply, |took| *took), change: median(&change, |took| *took) })
}

fn timed(command: &mut Command) -> Result<Duration, String> {
    command.stdin(Stdio::null());
    timed_with(command, b"")
}

/// Runs it to its end; what it says is the reason where it fails.
fn timed_with(command: &mut Command, input: &[u8]) -> Result<Duration, String> {
    let began = Instant::now();
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "not installed".to_owned(),
            _ => error.to_string(),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let took = began.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or("it failed without a word").to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lines_follow_the_contract() {
        let line = Line {
            reference: Some(("nft -f", Duration::from_millis(600))),
            ..alone("apply/65536", Duration::from_millis(30))
        };
        assert_eq!(
            line.json(),
            json!({
                "bench": "policy", "case": "apply/65536", "value": 30.0, "unit": "ms", "reference": "nft -f",
                "reference_value": 600.0, "ratio": 0.05,
            })
        );
        assert!(alone("switch/65536", Duration::ZERO).json().get("ratio").is_none());
    }

    #[test]
    fn prefixes_are_apart_and_one_of_them_changes() {
        let all = Subject { prefixes: MOST, apart: false, changed: false };
        let networks: BTreeSet<u32> = all.prefixes().map(|(address, _)| address >> 8).collect();
        assert_eq!(networks.len(), MOST as usize);
        let changed = Subject { changed: true, ..all };
        assert_eq!(all.prefixes().zip(changed.prefixes()).filter(|(old, new)| old != new).count(), 1);
    }

    #[test]
    fn the_largest_policies_are_accepted() {
        for apart in [false, true] {
            let envelope = Subject { prefixes: MOST, apart, changed: false }.envelope(1);
            let mut keys = Keyring::default();
            keys.add(signer().key);
            let opened = envelope::open(envelope.as_bytes(), &keys, None).unwrap();
            let bundle = read(opened.payload()).unwrap();
            let options = policy::Options { number: 0, fragments_allow: false, expired: &|_| false };
            compile(&bundle, &options).unwrap();
        }
    }
}
