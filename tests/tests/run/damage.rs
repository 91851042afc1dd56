//! Spool files that are not what was written.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate_tests::{Broker, Daemon, Scratch, Tap, eventually, mqtt::Ledger, need, requires};

use crate::{SOON, meter, put, reading};

/// A spool with records that nobody received, and who accepted what.
struct Undelivered {
    daemon: Daemon,
    accepted: BTreeMap<u64, u64>,
    /// Copy of the spool's folder.
    copy: Scratch,
}

impl Undelivered {
    /// `count` records, accepted while there was no broker.
    fn new(tap: &Tap, count: u64) -> Self {
        let mut daemon = Daemon::builder()
            .broker(tap.port())
            // Only what the test hands over.
            .config("[traffic]\ninterfaces = []\n[host]\ninterval = \"1h\"")
            .start();
        let accepted = put(&daemon, 0, count);
        daemon.stop(Duration::from_secs(5));
        let copy = Scratch::new("spool-copy");
        copy_folder(&daemon.spool(), copy.path());
        Self { daemon, accepted, copy }
    }

    /// Puts the copy back, lets `harm` at it, and starts the daemon on it.
    fn start_with(&mut self, harm: impl FnOnce(&Path)) {
        let spool = self.daemon.spool();
        self.daemon.kill();
        fs::remove_dir_all(&spool).unwrap();
        copy_folder(self.copy.path(), &spool);
        harm(&spool);
        self.daemon.start_again();
    }

    /// Files of the spool, relative to its folder; the large ones hold records.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(self.copy.path(), &mut files);
        files.iter().map(|file| file.strip_prefix(self.copy.path()).unwrap().to_owned()).collect()
    }

    /// The file that holds the records.
    fn segment(&self) -> PathBuf {
        let needle = reading(0).to_string();
        let found = self.files().into_iter().find(|file| {
            let bytes = fs::read(self.copy.path().join(file)).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
        });
        found.expect("the records stand in the spool as they were handed over")
    }

    /// A record handed over now arrives, and what arrived contradicts nothing that was accepted.
    #[track_caller]
    fn delivers_what_is_left(&self, tap: &Tap, case: &str) -> Ledger {
        let new = put(&self.daemon, 1_000_000, 1);
        let seq = *new.keys().next().unwrap();
        let ledger = eventually(SOON, &format!("{case}: a new record arrives"), || {
            let ledger = Ledger::of(&tap.acknowledged());
            (meter(&ledger).get(&seq) == Some(&1_000_000)).then_some(ledger)
        });
        for (seq, number) in meter(&ledger) {
            if number != 1_000_000
                && let Some(accepted) = self.accepted.get(&seq)
            {
                assert_eq!(*accepted, number, "{case}: sequence {seq} arrives with another record");
            }
        }
        ledger
    }
}

#[test]
fn a_spool_cut_at_any_place_delivers_what_is_before_the_cut() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    broker.stop();
    let mut spool = Undelivered::new(&Tap::before(&broker), 100);
    broker.start_again();
    let segment = spool.segment();
    let bytes = fs::read(spool.copy.path().join(&segment)).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for cut in (0..=end + 512).step_by(512) {
        let tap = Tap::before(&broker);
        spool.daemon.deliver_to(tap.port());
        spool.start_with(|folder| fs::write(folder.join(&segment), &bytes[..cut.min(bytes.len())]).unwrap());
        let case = format!("cut at {cut} of {end}");
        let ledger = spool.delivers_what_is_left(&tap, &case);
        // Every record whose bytes are all before the cut is there.
        let whole = spool.accepted.values().filter(|number| position(&bytes, **number) < cut).count();
        let arrived = meter(&ledger).len() - 1;
        assert!(arrived == whole, "{case}: {arrived} of {whole} whole records arrive");
    }
}

/// Where the data of a record ends in the segment.
fn position(bytes: &[u8], number: u64) -> usize {
    let needle = reading(number).to_string();
    let start = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
    start.expect("the record stands in the segment") + needle.len()
}

#[test]
fn any_spool_file_may_be_garbage() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    broker.stop();
    let mut spool = Undelivered::new(&Tap::before(&broker), 100);
    broker.start_again();
    for file in spool.files() {
        let tap = Tap::before(&broker);
        spool.daemon.deliver_to(tap.port());
        spool.start_with(|folder| {
            let length = fs::metadata(folder.join(&file)).unwrap().len();
            let garbage: Vec<u8> = (0..length).map(|_| fastrand::u8(..)).collect();
            fs::write(folder.join(&file), garbage).unwrap();
        });
        let _ledger = spool.delivers_what_is_left(&tap, &file.display().to_string());
    }
}

#[test]
fn files_of_another_gateway_are_never_delivered_as_our_own() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    broker.stop();
    let tap = Tap::before(&broker);
    let other = Undelivered::new(&tap, 10);
    let mut spool = Undelivered::new(&tap, 100);
    broker.start_again();
    let (theirs, ours) = (other.segment(), spool.segment());
    spool.start_with(|folder| {
        fs::copy(other.copy.path().join(&theirs), folder.join(&ours)).unwrap();
    });
    let ledger = spool.delivers_what_is_left(&tap, "another gateway's segment");
    assert_eq!(meter(&ledger).values().filter(|number| **number < 1_000_000).count(), 0, "a foreign record arrives");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map_while(Result::ok) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map_while(Result::ok) {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}
