//! Links that cut, stall and lie, and servers that answer what they should not: a file ends whole, or with a person who is
//! told why.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tidegate_tests::{
    eventually, need, requires,
    upload::{Dav, Fault, FaultProxy, Kind, Protocol, Received, Schedule, TusChecksum, TusNode},
};

use crate::{SOON, Sender, names};

/// Schedules that are tried at a time: most of their time is waited.
const AT_ONCE: usize = 8;
const AT_ONCE_LONG: usize = 12;
/// Most that one may take: six faults, each waited out, with what the circuit breaker adds to that.
const WITHIN: Duration = Duration::from_mins(6);
/// Of a file: several parts, of which each attempt brings some.
const SIZE: Range<u64> = 300_000..1_200_000;

/// A server that takes uploads, whichever.
trait Target: Sync {
    fn through(&self, proxy: &FaultProxy) -> String;
    fn behind(&self) -> u16;
    fn arrived(&self) -> Vec<Received>;
}

macro_rules! target {
    ($server:ty) => {
        impl Target for $server {
            fn through(&self, proxy: &FaultProxy) -> String {
                self.url_through(proxy.port())
            }
            fn behind(&self) -> u16 {
                self.port()
            }
            fn arrived(&self) -> Vec<Received> {
                self.received()
            }
        }
    };
}

target!(TusNode);
target!(TusChecksum);
target!(Dav);

/// How one schedule ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    Parked(String),
}

/// How all ended, and which faults happened.
#[derive(Debug, Default)]
struct Sums {
    ends: BTreeMap<String, u64>,
    applied: BTreeMap<&'static str, u64>,
}

/// The seeds of this run: those from `TIDEGATE_SEED` on, or from the clock.
fn seeds() -> Range<u64> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() * 1000);
    let told = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = told.unwrap_or_else(now);
    first..first + if need::long() { 300 } else { 40 }
}

/// Sends a file through the schedule of each seed; how they ended.
#[track_caller]
fn survive(protocol: Protocol, servers: &[&dyn Target], seeds: Range<u64>) {
    let (started, count) = (Instant::now(), seeds.end - seeds.start);
    println!("{protocol:?}: seeds {seeds:?}; TIDEGATE_SEED={} repeats them", seeds.start);
    let next = AtomicU64::new(seeds.start);
    let sums: Mutex<Sums> = Mutex::default();
    thread::scope(|scope| {
        for _worker in 0..if need::long() { AT_ONCE_LONG } else { AT_ONCE } {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let server = servers[usize::try_from(seed).unwrap_or_default() % servers.len()];
                    let (ended, applied) = one(protocol, server, seed);
                    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                    *sums.ends.entry(format!("{ended:?}")).or_default() += 1;
                    for (name, count) in applied {
                        *sums.applied.entry(name).or_default() += count;
                    }
                }
            });
        }
    });
    let Sums { ends, applied } = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{protocol:?}: {count} schedules in {:.1?}: {ends:?}; {applied:?}", started.elapsed());
    assert!(applied.len() >= 5, "few faults happened: {applied:?}");
}

/// Sends one file through one schedule; how that ended, and which faults happened.
#[track_caller]
fn one(protocol: Protocol, server: &dyn Target, seed: u64) -> (Ended, BTreeMap<&'static str, u64>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (size, compression) = (random.u64(SIZE), *random.choice(&["zstd", "gzip", "none"]).unwrap());
    let kind = *random.choice(&[Kind::Text, Kind::Mixed, Kind::Random]).unwrap();
    // Within what passes: what is encoded is shorter.
    let passes = match (kind, compression) {
        (Kind::Random, _) | (_, "none") => size,
        (Kind::Mixed, _) => size / 2,
        (Kind::Text, _) => size / 4,
    };
    let schedule = Schedule::random(seed, protocol, &(0..=passes));
    let what = format!("{schedule}; {size} bytes {kind:?}, {compression}");
    let proxy = FaultProxy::before(server.behind()).schedule(schedule.clone()).start();
    let name = if protocol == Protocol::Put { "http" } else { "tus" };
    let lines = format!(
        "protocol = \"{name}\"\ncompression = \"{compression}\"\npart_size = \"256KiB\"\n\
         connect_within = \"3s\"\nprogress_within = \"3s\"\ntotal_within = \"1m\""
    );
    let sender = Sender::start(&server.through(&proxy), &lines);
    let sample = sender.put(&format!("{seed}.bin"), size, kind, seed);
    let started = Instant::now();
    let ended = loop {
        // In this order: what was put away is told of before.
        let gone = !sample.path.exists();
        let upload = sender.upload();
        if gone {
            break Ended::Whole;
        }
        if let Some(reason) = upload["parked"][0]["reason"].as_str() {
            break Ended::Parked(reason.to_owned());
        }
        assert!(started.elapsed() < WITHIN, "not within {WITHIN:?}: {what}; {upload}");
        // A person who cannot wait: how long waits are is proved by the engine's own tests.
        if !need::long() && matches!(upload["state"].as_str(), Some("broken" | "backing-off")) {
            sender.retry();
        }
        thread::sleep(Duration::from_millis(100));
    };
    match &ended {
        Ended::Whole => {
            let all = server.arrived();
            let found = all.iter().find(|it| it.name == sample.name);
            let found = found.unwrap_or_else(|| {
                let there: Vec<&str> = all.iter().map(|it| it.name.as_str()).collect();
                panic!("removed, and not at the server, where there is {there:?}: {what}; {}", sender.upload())
            });
            assert_eq!(found.content_sha256(), sample.sha256, "{what}");
            assert_eq!(names(&sender.daemon.state().join("uploads")), ["ledger"], "no journal stays: {what}");
        }
        Ended::Parked(reason) => {
            let kept = fs::metadata(&sample.path).map(|it| it.len()).ok();
            assert_eq!(kept, Some(size), "a parked file stays: {what}");
            assert!(is_right(reason, &schedule), "parked as {reason:?}: {what}; {}", sender.upload());
        }
    }
    println!("{ended:?} after {:.1?}: {what}: {:?}", started.elapsed(), proxy.counts().applied);
    (ended, proxy.counts().applied)
}

/// Whether a person is needed for this reason: it takes three attempts in a row that end so.
fn is_right(reason: &str, schedule: &Schedule) -> bool {
    let count = |is: fn(&Fault) -> bool| schedule.faults().iter().filter(|fault| is(fault)).count();
    match reason.split(' ').next() {
        Some("lying-server") => count(|fault| matches!(fault, Fault::Lie { .. })) >= 3,
        // A request whose second half is missing is a bad one to the server.
        Some("refused") => count(|fault| matches!(fault, Fault::HalfClose { .. })) >= 3,
        _ => false,
    }
}

#[test]
fn through_whatever_a_link_does_a_tus_upload_ends_whole_or_parked_with_its_reason() {
    requires!(need::tus_node(), need::tus_checksum(), need::program("zstd"), need::program("gunzip"));
    let (node, checksum) = (TusNode::start(), TusChecksum::start());
    survive(Protocol::Tus, &[&node, &checksum], seeds());
}

#[test]
fn through_whatever_a_link_does_a_put_ends_whole_or_parked_with_its_reason() {
    requires!(need::dav(), need::program("zstd"), need::program("gunzip"));
    let server = Dav::start();
    survive(Protocol::Put, &[&server], seeds());
}

#[test]
fn an_answer_that_is_lost_does_not_make_a_second_upload_of_a_whole_one() {
    requires!(need::tus_node());
    let server = TusNode::start();
    // The answers to OPTIONS and POST come, that to the PATCH does not.
    let proxy =
        FaultProxy::before(server.port()).schedule([Fault::cut_down(700, tidegate_tests::upload::End::Reset)]).start();
    let sender = Sender::start(&server.url_through(proxy.port()), "compression = \"none\"");
    let sample = sender.put("a.bin", 100_000, Kind::Random, 1);
    crate::arrives(&sample, || server.received());
    sender.is_done();
    assert_eq!((server.received().len(), server.unfinished().len()), (1, 0));
    assert_eq!(proxy.counts().of("cut"), 1, "{:?}", server.requests());
    eventually(SOON, "it is counted", || sender.counter("files") == 1);
}
