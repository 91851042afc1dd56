//! `bench upload`: what it takes to send a file, beside others that send the same file to the same server; and what a bad link
//! leaves of its speed.
//!
//! Files, servers and the daemon's own folders are in memory where there is room, so that no disk is measured. Ours is the
//! daemon as it runs on a gateway: from the file's rename into the outbox until it is gone from there, SHA-256 of the content
//! included, which the others do not make; `cpu/plain+digest` is beside `sha256sum` and curl. Processor time is that of
//! the daemon with all its threads, and of all processes of a pipe.
//!
//! The bad link passes 10 Mbit/s and resets its connections at random, once in 20 s on average. Bytes sent twice are those that
//! the daemon counts: what its connections had taken, and the server then did not have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Daemon, Scratch, need,
    upload::{Dav, FaultProxy, Kind, Sample, TusNode, sample, sha256, tus_js_client},
};

use crate::{
    Plan,
    footprint::resident,
    row::{Row, summary},
};

const BYTES: u64 = 1_000_000_000;
/// Both files, and one more on a server that is being written while the one before is still there.
const ROOM: u64 = 5 * BYTES;
const GB: f64 = 1e9;
const MIB: f64 = 1_048_576.0;
/// A file that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(5);
/// After its start the daemon settles: what it then takes is what it takes idle.
const SETTLED: Duration = Duration::from_secs(3);
/// The bad link passes so much a second,
const LINK_BYTES_PER_S: u64 = 10_000_000 / 8;
/// and is cut once in so long on average.
const CUTS: Duration = Duration::from_secs(20);
/// Windows of a measurement that the file on the bad link takes there: three minutes of the usual three seconds.
const WINDOWS: u32 = 60;
/// So that cuts come at the same moments each time.
const SEED: u64 = 6;

/// What one run came to.
#[derive(Debug, Default)]
struct Figures {
    /// Of content, a second.
    mebibytes: Vec<f64>,
    /// For each 10^9 bytes of content.
    processor_s: Vec<f64>,
    /// The peak above what was resident before.
    memory: Vec<f64>,
}

/// Measures.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let room = Scratch::all_in_memory(ROOM);
    let place = if room { "in memory" } else { "on disk, for there is no room in memory" };
    eprintln!("files of {} MB and what servers keep are {place}", BYTES / 1_000_000);
    let mut rows = Vec::new();
    let files = Scratch::new("bench");
    let random = sample(files.path(), "random", BYTES, Kind::Random, 1);
    match need::dav().and_then(|()| ["curl", "zstd", "gzip"].into_iter().try_for_each(need::program)) {
        Ok(()) => rows.extend(put(plan, &random, &sample(files.path(), "text", BYTES, Kind::Text, 2))),
        Err(why) => eprintln!("skipped: PUT, {why}"),
    }
    match need::tus_node() {
        Ok(()) => {
            rows.extend(tus(plan, &random));
            drop(files);
            rows.extend(bad_link(plan));
        }
        Err(why) => eprintln!("skipped: tus, {why}"),
    }
    rows
}

/// The same by PUT to nginx: as it is, and compressed.
fn put(plan: Plan, random: &Sample, text: &Sample) -> Vec<Row> {
    let server = Dav::start();
    let cases = [
        ("plain", "none", random, "curl -T", "exec curl -sSf -T \"$1\" \"$2\""),
        ("zstd", "zstd:1", text, "zstd -1 | curl -T", "zstd -1 -q -c \"$1\" | curl -sSf -T - \"$2\""),
        ("gzip", "gzip:1", text, "gzip -1 | curl -T", "gzip -1 -c \"$1\" | curl -sSf -T - \"$2\""),
    ];
    let digest = "sha256sum \"$1\" && exec curl -sSf -T \"$1\" \"$2\"";
    let (mut ours, mut theirs): ([Figures; 3], [Figures; 3]) = Default::default();
    let mut with_digest = Figures::default();
    for round in 0..plan.rounds {
        for (index, (name, compression, file, reference, script)) in cases.into_iter().enumerate() {
            eprintln!("round {} of {}: {name}: tidegate, {reference}", round + 1, plan.rounds);
            let uploader = Uploader::start("http", &server.url(), compression);
            uploader.measure(file, &mut ours[index]);
            let received = server.received().pop().expect("the server has it");
            assert!(round > 0 || received.content_sha256() == file.sha256, "{name}: something else arrived");
            drop(uploader);
            empty(&server.folder());
            let to = format!("{}{name}", server.url());
            shell(script, &file.path, &to, &mut theirs[index]);
            assert!(index > 0 || server.folder().join(name).metadata().is_ok_and(|it| it.len() == BYTES));
            empty(&server.folder());
            if index == 0 {
                shell(digest, &file.path, &to, &mut with_digest);
                empty(&server.folder());
            }
        }
    }
    let mut rows = Vec::new();
    for (index, (name, _, _, reference, _)) in cases.into_iter().enumerate() {
        rows.extend(beside(name, &ours[index], reference, &theirs[index]));
    }
    rows.extend(beside("plain+digest", &ours[0], "sha256sum && curl -T", &with_digest));
    for (case, index, budget) in [("memory", 0, Some(1.0)), ("memory/zstd", 1, None), ("memory/gzip", 2, None)] {
        let budget = budget.map(|budget| ("the budget".to_owned(), budget));
        rows.push(row(case, ours[index].memory.clone(), "MiB", budget));
    }
    rows
}

/// The same by tus to the protocol's own server, beside its own client.
fn tus(plan: Plan, file: &Sample) -> Vec<Row> {
    let server = TusNode::start();
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for round in 0..plan.rounds {
        eprintln!("round {} of {}: tus: tidegate, tus-js-client", round + 1, plan.rounds);
        let uploader = Uploader::start("tus", &server.url(), "none");
        uploader.measure(file, &mut ours);
        let received = server.received().pop().expect("the server has it");
        assert!(round > 0 || sha256(&received.path) == file.sha256, "something else arrived");
        drop(uploader);
        empty(&server.folder());
        command(&mut tus_js_client(&server.url(), &file.path, None), file.size, &mut theirs);
        assert_eq!(server.received().len(), 1, "the server has it");
        empty(&server.folder());
    }
    beside("tus", &ours, "tus-js-client", &theirs)
}

fn bad_link(plan: Plan) -> Vec<Row> {
    let seconds = u64::from(WINDOWS) * plan.window.as_secs();
    eprintln!("a file of some {seconds} s over 10 Mbit/s, cut once in {} s on average", CUTS.as_secs());
    let files = Scratch::new("bench");
    let file = sample(files.path(), "random", LINK_BYTES_PER_S * seconds, Kind::Random, 3);
    let server = TusNode::start();
    let link = FaultProxy::before(server.port()).rate(LINK_BYTES_PER_S).cut_at_random(CUTS, SEED).start();
    let uploader = Uploader::start("tus", &server.url_through(link.port()), "none");
    let took = uploader.send(&file, Duration::from_secs(10 * seconds));
    let counts = link.counts();
    let received = server.received().pop().expect("the server has it");
    assert_eq!(sha256(&received.path), file.sha256, "what arrived is what was sent");
    let share = |bytes: u64| bytes as f64 / file.size as f64;
    let resent = uploader.daemon.status()["upload"]["counters"]["resent_bytes"].as_u64().expect("it is counted");
    eprintln!(
        "{} connections, {} of them cut; {:.3} % more than the file passed the link, heads of requests included",
        counts.connections,
        counts.of("random cut"),
        100.0 * (share(counts.up) - 1.0),
    );
    let goodput = file.size as f64 / took.as_secs_f64() / LINK_BYTES_PER_S as f64;
    let goal = |goal| Some(("the goal".to_owned(), goal));
    vec![
        row("goodput/badlink", vec![goodput], "share", goal(0.95)),
        row("resent/badlink", vec![share(resent)], "share", goal(0.01)),
    ]
}

/// A daemon that uploads what is put into its outbox.
struct Uploader {
    daemon: Daemon,
    outbox: Scratch,
}

impl Uploader {
    fn start(protocol: &str, endpoint: &str, compression: &str) -> Self {
        let outbox = Scratch::new("outbox");
        let config = format!(
            "[traffic]\ninterfaces = []\n[upload]\nendpoint = \"{endpoint}\"\noutbox = [\"{}\"]\nprotocol = \"{protocol}\"\n\
             compression = \"{compression}\"\nsplay = \"0s\"",
            outbox.path().display()
        );
        let daemon = Daemon::builder().config(&config).log("warn").start();
        thread::sleep(SETTLED);
        Self { daemon, outbox }
    }

    /// Sends the file and notes what that took.
    fn measure(&self, file: &Sample, figures: &mut Figures) {
        let pid = self.daemon.status()["pid"].as_u64().expect("the status has it");
        let idle = resident(pid, "VmRSS");
        // proc_pid_clear_refs(5): the peak is what is resident now.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the daemon runs");
        let before = processor(&pid.to_string(), OWN);
        let took = self.send(file, PATIENCE);
        figures.note(file.size, took, processor(&pid.to_string(), OWN) - before);
        figures.memory.push(resident(pid, "VmHWM") - idle);
    }

    /// From the rename on, until the file is gone.
    fn send(&self, file: &Sample, patience: Duration) -> Duration {
        let part = self.outbox.path().join("file.part");
        let path = self.outbox.path().join("file");
        fs::hard_link(&file.path, &part).expect("it is the same file system");
        let started = Instant::now();
        fs::rename(&part, &path).expect("the outbox is ours");
        while path.exists() {
            let took = started.elapsed();
            assert!(took < patience, "not sent within {took:?}: {}", self.daemon.status()["upload"]);
            thread::sleep(Duration::from_millis(2));
        }
        started.elapsed()
    }
}

impl Figures {
    fn note(&mut self, bytes: u64, took: Duration, processor_s: f64) {
        self.mebibytes.push(bytes as f64 / MIB / took.as_secs_f64());
        self.processor_s.push(processor_s / (bytes as f64 / GB));
    }
}

/// Runs a script with a file and an address.
fn shell(script: &str, file: &Path, to: &str, figures: &mut Figures) {
    let mut sh = Command::new("sh");
    sh.args(["-ec", script, "sh"]).arg(file).arg(to);
    command(&mut sh, BYTES, figures);
}

fn command(command: &mut Command, bytes: u64, figures: &mut Figures) {
    let before = processor("self", CHILDREN);
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let took = started.elapsed();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    figures.note(bytes, took, processor("self", CHILDREN) - before);
}

/// Fields of `proc_pid_stat(5)` behind the name of the program: processor time of the process with all its threads, and of its
/// children that have ended, with theirs.
const OWN: [usize; 2] = [11, 12];
const CHILDREN: [usize; 2] = [13, 14];

/// Seconds, in user space and in the kernel.
fn processor(pid: &str, fields: [usize; 2]) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let behind = stat.rsplit_once(") ").expect("it has a name").1;
    let words: Vec<&str> = behind.split(' ').collect();
    let ticks: f64 = fields.iter().map(|field| words[*field].parse::<f64>().expect("ticks")).sum();
    // Of 1/100 s, on every Linux that Debian has.
    ticks / 100.0
}

/// What a server keeps.
fn empty(folder: &Path) {
    let entries = fs::read_dir(folder).expect("the server has a folder").map_while(Result::ok);
    let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.iter().try_for_each(fs::remove_file).expect("there are files only");
}

fn beside(name: &str, ours: &Figures, reference: &str, theirs: &Figures) -> Vec<Row> {
    type Pick = fn(&Figures) -> &Vec<f64>;
    let groups: [(&str, &'static str, Pick); 2] =
        [("throughput", "MiB/s", |figures| &figures.mebibytes), ("cpu", "s/GB", |figures| &figures.processor_s)];
    groups
        .into_iter()
        .map(|(group, unit, pick)| {
            let (theirs, _) = summary(pick(theirs).clone());
            row(&format!("{group}/{name}"), pick(ours).clone(), unit, Some((reference.to_owned(), theirs)))
        })
        .collect()
}

fn row(case: &str, figures: Vec<f64>, unit: &'static str, reference: Option<(String, f64)>) -> Row {
    let (value, range) = summary(figures);
    Row { bench: "upload", case: case.to_owned(), value, range, unit, reference }
}
