//! What lies in the outboxes, and what of it is to be sent first.
//!
//! # Constraints
//!
//! A folder is read as a stream: however many files it holds, no more than the best few are kept, and of the others
//! their number and their bytes. The order is by priority, then the oldest content, then the name.
//!
//! # Settled
//!
//! A file is taken when nobody writes to it any more. That is known
//!
//! - of one that was renamed in, as the watcher saw it: at once;
//! - else when it has not changed for `settle`: neither its content nor anything else about it. What counts is `ctime`,
//!   for only the kernel sets it: programs that copy give a file the `mtime` of the original, some of them before its
//!   content.
//!
//! `ctime` is by the wall clock, and that may be wrong and may jump. It is compared with the monotonic one at each
//! scan, and believed as long as both have gone alike for `settle`: then whatever changed within that time has a
//! `ctime` within that time, and what has an older one did not change. A file from the future says nothing.
//!
//! ```text
//!                  steady for `settle`?
//!                   │yes             │no
//!        ctime is in the future?     │
//!           │no             │yes     │
//!   settled when it is      ▼        ▼
//!   `settle` ago       settled when it was seen unchanged for `settle` by the monotonic clock
//! ```
//!
//! Files that are settled by the watcher or by the monotonic clock are remembered, [`MAX_YOUNG`] of them at a time, as
//! long as they lie there and the wall clock does not say so, too. Beyond that they wait until the clock is steady, or
//! others are gone.
//!
//! A file that was changed while it was sent is parked as such until it is settled again. When that happened to it
//! [`MOST_CHANGES`] times it stays parked, unless it goes, or another file takes its place.
//!
//! # Costs
//!
//! One `statx` for each file, and one attempt to open its sidecar where the folder holds any. Sidecars of up to
//! [`SIDECAR_BYTES`] are read; the files of any others have normal priority here. At [`MAX_SCANNED`] names a folder is
//! left: what is behind them has its turn when others are gone.
//!
//! A look at a full folder takes long, on a slow disk above all. So it is made of steps ([`Scanner::go_on`]) of some
//! hundred names at most, between which others have their turn.

use std::{
    ffi::CStr,
    mem::take,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat},
    io::Errno,
};
use tidegate_values::excerpt::shorten;

use super::{
    folder::{Folder, Unusable, check_stat},
    identity::Identity,
    names,
    sidecar::{self, Priority},
};
use crate::{
    ledger::{Key, Parking, Reason, Salt, Verdict},
    status::Parked,
};

/// Most files that are remembered as settled or about to be: 32 bytes each.
pub const MAX_YOUNG: usize = 1024;
/// Most names that are remembered as renamed in until the next scan.
pub const MAX_RENAMED_IN: usize = 1024;
/// Most names of a folder that are looked at, whatever they are of.
pub const MAX_SCANNED: usize = 100_000;
/// A file that was changed so often while it was sent is not taken again.
pub const MOST_CHANGES: u16 = 3;
/// Most bytes of sidecars that are read.
pub const SIDECAR_BYTES: u64 = 4 << 20;
/// How much of what is found is named, and not only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Files that are to be sent next.
    pub candidates: usize,
    /// Files that are parked, and as many that cannot be used.
    pub named: usize,
}

/// Of names, as the kernel hands them over.
const BUFFER_BYTES: usize = 4 * 1024;
/// The clocks have gone alike where they differ by no more: what reading both takes, and one step of a time service
/// that nobody would call a jump.
const JITTER: Duration = Duration::from_millis(250);
/// And by this share of the time: the kernel slews by at most 500 parts in a million (`adjtimex(2)`).
const SLEW: u32 = 1000;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Never wrong.
    pub monotonic: Instant,
    /// What files are stamped by.
    pub wall: SystemTime,
}

/// A file to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// In which of the folders.
    pub folder: usize,
    /// Its name there.
    pub name: String,
    /// By its sidecar.
    pub priority: Priority,
    /// What it was when it was looked at.
    pub identity: Identity,
    /// For the ledger.
    pub key: Key,
}

/// What lies in the outboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The best of those that are settled, the best first.
    pub candidates: Vec<Candidate>,
    /// All that are to be sent, those not settled yet included.
    pub waiting_files: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Those of them that are not settled yet.
    pub unsettled_files: u64,
    /// When the next one of these may be: worth a scan then.
    pub settles_in: Option<Duration>,
    /// Files that were sent and stay.
    pub kept_files: u64,
    /// Files that were parked, or sent and not removed.
    pub parked_files: u64,
    /// The first few of them.
    pub parked: Vec<Parked>,
    /// A few that were sent and not removed, others each time ([`Scanner::stuck_after`]): [`super::finish()`] may succeed by now.
    pub stuck: Vec<Candidate>,
    /// Places of files that were changed while they were sent, and that others were renamed into since.
    pub replaced: Vec<Key>,
    /// What lies there and cannot be sent.
    pub unusable_files: u64,
    /// The first few.
    pub unusable: Vec<Parked>,
    /// A folder held more than was looked at: all numbers are at least what they say.
    pub is_capped: bool,
    /// Folders that could not be read (to their end), by index.
    pub failed: Vec<(usize, Errno)>,
}

/// A look at the outboxes that is under way.
#[derive(Debug)]
pub struct Look {
    now: Moment,
    most: Most,
    scan: Scan,
    renamed_in: Vec<(usize, Box<str>)>,
    /// That may still be read.
    sidecar_bytes: u64,
    /// The folder that is looked at, and how far that is.
    folder: usize,
    part: Part,
}

/// How far the look at a folder is: names are listed twice.
#[derive(Debug)]
enum Part {
    Begin,
    /// Whether any file there says something about another one: mostly none does, and none has to be looked for.
    Sidecars {
        list: OwnedFd,
        count: usize,
    },
    Files {
        list: OwnedFd,
        count: usize,
        with_sidecars: bool,
    },
}

/// Looks at the outboxes, and remembers which files are settled.
#[derive(Clone, Debug)]
pub struct Scanner {
    settle: Duration,
    /// Whether anything is known about places.
    places: bool,
    /// The last stuck file that was looked after: those with higher keys are next, then all others.
    stuck_after: Key,
    clock: Option<Clock>,
    renamed_in: Vec<(usize, Box<str>)>,
    /// By key.
    young: Vec<Young>,
}

/// What is known about the wall clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// It has gone like the monotonic one since then.
    steady_since: Instant,
    /// When it was looked at.
    seen: Moment,
}

/// A file that is settled, or will be, whatever the wall clock says.
#[derive(Clone, Copy, Debug)]
struct Young {
    key: Key,
    ctime_ns: i64,
    settled_at: Instant,
    /// By this scan.
    seen: bool,
}

const _: () = assert!(size_of::<Young>() <= 40);

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// The wall clock as files have it.
    fn wall_ns(&self) -> i128 {
        match self.wall.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => since.as_nanos().cast_signed(),
            Err(before) => -before.duration().as_nanos().cast_signed(),
        }
    }
}

impl Candidate {
    fn rank(&self) -> (Priority, i64, &str, usize) {
        (self.priority, self.identity.mtime_ns, &self.name, self.folder)
    }
}

impl Scanner {
    /// Of files that are settled when they have not changed for that long.
    #[must_use]
    pub const fn new(settle: Duration) -> Self {
        Self {
            settle,
            places: false,
            stuck_after: Key(u64::MAX),
            clock: None,
            renamed_in: Vec::new(),
            young: Vec::new(),
        }
    }

    /// From the next scan on, with another one. What was settled stays settled.
    pub const fn set_settle(&mut self, settle: Duration) {
        self.settle = settle;
    }

    /// Whether `known` is asked for places, too.
    pub const fn ask_for_places(&mut self, places: bool) {
        self.places = places;
    }

    /// From the next scan on, names stuck files behind this one first.
    pub const fn stuck_after(&mut self, key: Key) {
        self.stuck_after = key;
    }

    /// A file was renamed in: what lies under that name at the next scan is settled, as long as it does not change.
    pub fn renamed_in(&mut self, folder: usize, name: &str) {
        if self.renamed_in.len() < MAX_RENAMED_IN {
            self.renamed_in.push((folder, name.into()));
        }
    }

    /// Looks at all of them. Keeps the best `most.candidates` of those that are settled and that `known` knows nothing
    /// about. Blocks on the disk.
    pub fn scan(
        &mut self,
        folders: &[Option<Folder>],
        salt: Salt,
        known: &dyn Fn(Key, &Identity) -> Option<Verdict>,
        most: Most,
        now: Moment,
    ) -> Scan {
        let mut look = self.begin(most, now);
        while !self.go_on(&mut look, folders, salt, known) {}
        self.end(look)
    }

    /// Begins a look, of which [`Self::go_on`] makes a step and [`Self::end`] a [`Scan`]. One that is not ended costs
    /// files that were renamed in their being settled at once.
    pub fn begin(&mut self, most: Most, now: Moment) -> Look {
        self.look_at_clock(now);
        let mut renamed_in = take(&mut self.renamed_in);
        renamed_in.sort_unstable();
        let (sidecar_bytes, folder, part) = (SIDECAR_BYTES, 0, Part::Begin);
        Look { now, most, scan: Scan::default(), renamed_in, sidecar_bytes, folder, part }
    }

    /// Makes a step: whether it was the last one. The folders are to be the same each time. Blocks on the disk.
    pub fn go_on(
        &mut self,
        look: &mut Look,
        folders: &[Option<Folder>],
        salt: Salt,
        known: &dyn Fn(Key, &Identity) -> Option<Verdict>,
    ) -> bool {
        let index = look.folder;
        let Some(folder) = folders.get(index) else { return true };
        let part = std::mem::replace(&mut look.part, Part::Begin);
        let stepped = match folder {
            Some(folder) => Looking { scanner: self, look, salt, known }.step(index, folder, part),
            None => Ok(None),
        };
        match stepped {
            Ok(Some(part)) => look.part = part,
            Ok(None) => look.folder += 1,
            Err(errno) => {
                look.scan.failed.push((index, errno));
                look.folder += 1;
            }
        }
        false
    }

    /// What was found.
    pub fn end(&mut self, mut look: Look) -> Scan {
        look.shorten();
        self.young.retain_mut(|young| take(&mut young.seen));
        look.scan
    }

    /// Keeps those that are next, in their order.
    fn next_stuck(&self, stuck: &mut Vec<Candidate>, most: usize, candidate: Candidate) {
        let distance = |Key(key): Key| key.wrapping_sub(self.stuck_after.0).wrapping_sub(1);
        let place = stuck.partition_point(|other| distance(other.key) < distance(candidate.key));
        if place < most {
            stuck.truncate(most - 1);
            stuck.insert(place, candidate);
        }
    }

    fn look_at_clock(&mut self, now: Moment) {
        let Some(clock) = &mut self.clock else {
            self.clock = Some(Clock { steady_since: now.monotonic, seen: now });
            return;
        };
        let passed = now.monotonic.saturating_duration_since(clock.seen.monotonic);
        let apart = (now.wall_ns() - clock.seen.wall_ns()).abs_diff(passed.as_nanos().cast_signed());
        if apart > (JITTER + passed / SLEW).as_nanos() {
            clock.steady_since = now.monotonic;
        }
        clock.seen = now;
    }

    /// Time until a file is settled; zero where it is.
    fn settles_in(&mut self, key: Key, file: &Identity, renamed_in: bool, now: Moment) -> Duration {
        let steady_since = self.clock.map_or(now.monotonic, |clock| clock.steady_since);
        let steady_in = (steady_since + self.settle).saturating_duration_since(now.monotonic);
        let age = now.wall_ns() - i128::from(file.ctime_ns);
        // Not from the future, so that the wall clock will tell.
        let by_wall =
            u64::try_from(age).ok().map(|ns| self.settle.saturating_sub(Duration::from_nanos(ns)).max(steady_in));
        if by_wall == Some(Duration::ZERO) {
            return Duration::ZERO;
        }
        let settled_at = if renamed_in { now.monotonic } else { now.monotonic + self.settle };
        let place = match self.young.binary_search_by_key(&key, |young| young.key) {
            Ok(at) => {
                let young = &mut self.young[at];
                young.seen = true;
                if young.ctime_ns != file.ctime_ns || renamed_in {
                    (young.ctime_ns, young.settled_at) = (file.ctime_ns, settled_at);
                }
                return young.settled_at.saturating_duration_since(now.monotonic).min(by_wall.unwrap_or(Duration::MAX));
            }
            Err(place) => place,
        };
        // Where the wall clock is to be believed it needs no help.
        let helpless = by_wall.is_none() || !steady_in.is_zero();
        let has_room = self.young.len() < MAX_YOUNG;
        if has_room && (helpless || renamed_in) {
            self.young.insert(place, Young { key, ctime_ns: file.ctime_ns, settled_at, seen: true });
            if renamed_in {
                return Duration::ZERO;
            }
        }
        by_wall.unwrap_or(self.settle)
    }
}

/// One step.
struct Looking<'a> {
    scanner: &'a mut Scanner,
    look: &'a mut Look,
    salt: Salt,
    known: &'a dyn Fn(Key, &Identity) -> Option<Verdict>,
}

impl Looking<'_> {
    /// Looks at as many names as the kernel hands over at a time; what is next in this folder.
    fn step(&mut self, index: usize, folder: &Folder, part: Part) -> Result<Option<Part>, Errno> {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        match part {
            Part::Begin => Ok(Some(Part::Sidecars { list: list(folder)?, count: 0 })),
            Part::Sidecars { list: names, mut count } => {
                let files = |with_sidecars| Ok(Some(Part::Files { list: list(folder)?, count: 0, with_sidecars }));
                let mut entries = RawDir::new(names.as_fd(), buffer.spare_capacity_mut());
                loop {
                    let Some(entry) = entries.next() else { return files(false) };
                    count += 1;
                    if names::is_sidecar(entry?.file_name().to_bytes()) {
                        return files(true);
                    }
                    if count == MAX_SCANNED {
                        return files(false);
                    }
                    if entries.is_buffer_empty() {
                        return Ok(Some(Part::Sidecars { list: names, count }));
                    }
                }
            }
            Part::Files { list: names, mut count, with_sidecars } => {
                let mut entries = RawDir::new(names.as_fd(), buffer.spare_capacity_mut());
                loop {
                    let Some(entry) = entries.next() else { return Ok(None) };
                    let entry = entry?;
                    if count == MAX_SCANNED {
                        self.look.scan.is_capped = true;
                        return Ok(None);
                    }
                    count += 1;
                    if entry.file_type() != FileType::Directory {
                        self.name(index, folder, entry.file_name(), with_sidecars);
                    }
                    if entries.is_buffer_empty() {
                        return Ok(Some(Part::Files { list: names, count, with_sidecars }));
                    }
                }
            }
        }
    }

    fn name(&mut self, index: usize, folder: &Folder, name: &CStr, with_sidecars: bool) {
        if names::is_left_alone(name.to_bytes()) {
            return;
        }
        match self.entry(index, folder, name, with_sidecars) {
            // A folder, of a file system that does not say so at once; or it is gone.
            Ok(()) | Err(Unusable::Vanished) => {}
            Err(reason) => {
                self.look.scan.unusable_files += 1;
                let name = name.to_string_lossy();
                note(&mut self.look.scan.unusable, self.look.most.named, || Parked {
                    name: shorten(&name),
                    reason: reason.to_string(),
                    folder: index,
                    bytes: 0,
                });
            }
        }
    }

    fn entry(&mut self, index: usize, folder: &Folder, name: &CStr, with_sidecars: bool) -> Result<(), Unusable> {
        let text = names::check(name.to_bytes()).map_err(Unusable::Name)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = statat(folder, name, flags).map_err(|errno| Unusable::new("statx", errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        check_stat(&stat)?;
        let identity = Identity::from_stat(&stat);
        let key = self.salt.key(folder.path(), text, &identity);
        let scan = &mut self.look.scan;
        let parked = match (self.known)(key, &identity) {
            // What changed is about places only.
            None | Some(Verdict::Changed(_)) => None,
            Some(Verdict::Kept) => {
                scan.kept_files += 1;
                return Ok(());
            }
            Some(Verdict::Stuck) => {
                let name = text.to_owned();
                let candidate = Candidate { folder: index, name, priority: Priority::Normal, identity, key };
                self.scanner.next_stuck(&mut scan.stuck, self.look.most.named, candidate);
                Some("it was sent, and could not be removed".to_owned())
            }
            Some(Verdict::Parked(parking)) => Some(parking.to_string()),
        };
        if let Some(reason) = parked {
            self.parked(index, text, &identity, reason);
            return Ok(());
        }
        let is_this = |(folder, name): &(usize, Box<str>)| (*folder, &**name).cmp(&(index, text));
        let renamed_in = self.look.renamed_in.binary_search_by(is_this).is_ok();
        let changes = self.changes(folder, text, &identity, renamed_in);
        let settles_in = self.scanner.settles_in(key, &identity, renamed_in, self.look.now);
        if changes >= MOST_CHANGES || changes > 0 && !settles_in.is_zero() {
            if changes < MOST_CHANGES {
                self.settles(settles_in);
            }
            let reason = Parking { reason: Reason::Changed, status: 0 };
            self.parked(index, text, &identity, reason.to_string());
            return Ok(());
        }
        let mut priority = Priority::Normal;
        if settles_in.is_zero() && with_sidecars && self.look.sidecar_bytes > 0 {
            let sidecar = sidecar::read(folder, text);
            let bytes = match &sidecar {
                Ok(sidecar) => sidecar.identity.map_or(0, |identity| identity.size),
                Err(_) => sidecar::MAX_BYTES,
            };
            self.look.sidecar_bytes = self.look.sidecar_bytes.saturating_sub(bytes);
            priority = match sidecar {
                Ok(sidecar) => sidecar.priority,
                // Found again when it is opened.
                Err(error) if error.may_pass() => Priority::Normal,
                Err(error) => return Err(error),
            };
        }
        let scan = &mut self.look.scan;
        scan.waiting_files += 1;
        scan.waiting_bytes += identity.size;
        if settles_in.is_zero() {
            if self.look.may_be_kept(priority, identity.mtime_ns) {
                self.look.keep(Candidate { folder: index, name: text.to_owned(), priority, identity, key });
            }
        } else {
            scan.unsettled_files += 1;
            self.settles(settles_in);
        }
        Ok(())
    }

    /// How often the file that lies there was changed while it was sent.
    fn changes(&mut self, folder: &Folder, name: &str, identity: &Identity, renamed_in: bool) -> u16 {
        if !self.scanner.places {
            return 0;
        }
        let place = self.salt.place(folder.path(), name);
        match (self.known)(place, identity) {
            Some(Verdict::Changed(_)) if renamed_in => {
                self.look.scan.replaced.push(place);
                0
            }
            Some(Verdict::Changed(times)) => times,
            _ => 0,
        }
    }

    fn parked(&mut self, index: usize, name: &str, identity: &Identity, reason: String) {
        self.look.scan.parked_files += 1;
        let (name, bytes) = (name.to_owned(), identity.size);
        note(&mut self.look.scan.parked, self.look.most.named, || Parked { name, reason, folder: index, bytes });
    }

    fn settles(&mut self, settles_in: Duration) {
        let earlier = self.look.scan.settles_in.unwrap_or(Duration::MAX);
        self.look.scan.settles_in = Some(settles_in.min(earlier));
    }
}

impl Look {
    /// Whether it may be one of the best, before its name is copied.
    fn may_be_kept(&self, priority: Priority, mtime_ns: i64) -> bool {
        let worst = self.most.candidates.checked_sub(1).map(|last| self.scan.candidates.get(last));
        worst.is_some_and(|worst| {
            worst.is_none_or(|worst| (priority, mtime_ns) <= (worst.priority, worst.identity.mtime_ns))
        })
    }

    /// Behind the first `most.candidates`, which are sorted as soon as there are so many, there is room for as many that are not.
    fn keep(&mut self, candidate: Candidate) {
        self.scan.candidates.push(candidate);
        if self.scan.candidates.len() == self.most.candidates || self.scan.candidates.len() == 2 * self.most.candidates
        {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        let candidates = &mut self.scan.candidates;
        candidates.sort_unstable_by(|one, other| one.rank().cmp(&other.rank()));
        candidates.truncate(self.most.candidates);
    }
}

/// A description of its own, which begins at the first entry.
fn list(folder: &Folder) -> Result<OwnedFd, Errno> {
    openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn note<T>(list: &mut Vec<T>, most: usize, named: impl FnOnce() -> T) {
    if list.len() < most {
        list.push(named());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        fs::{self, File, FileTimes},
        os::unix::{ffi::OsStrExt as _, fs::symlink},
        path::Path,
    };

    use super::*;
    use crate::ledger::Ledger;

    const SETTLE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        temp: tempfile::TempDir,
        folders: Vec<Option<Folder>>,
        scanner: Scanner,
        salt: Salt,
        /// What the ledger knows.
        known: Vec<(Key, Verdict)>,
        limit: usize,
    }

    impl Bench {
        fn new() -> Self {
            let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            let folders = vec![Some(Folder::open(temp.path()).unwrap())];
            let state = tempfile::tempdir().unwrap();
            let salt = Ledger::open(&state.path().join("ledger")).unwrap().0.salt();
            Self { temp, folders, scanner: Scanner::new(SETTLE), salt, known: Vec::new(), limit: 256 }
        }

        /// Whose clock is known to be steady.
        fn steady() -> (Self, Moment) {
            let mut bench = Self::new();
            let now = Moment::now();
            bench.scan(later(now, Duration::ZERO));
            (bench, later(now, SETTLE))
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.temp.path().join(name), content).unwrap();
        }

        /// With a content that was last changed so long ago.
        fn old(&self, name: &str, age: Duration) {
            let file = File::create(self.temp.path().join(name)).unwrap();
            file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
        }

        fn scan(&mut self, now: Moment) -> Scan {
            let known = &self.known;
            let known = |key, _: &Identity| known.iter().find(|(other, _)| *other == key).map(|(_, verdict)| *verdict);
            self.scanner.scan(&self.folders, self.salt, &known, Most { candidates: self.limit, named: 10 }, now)
        }

        fn settled(&mut self, now: Moment) -> Vec<String> {
            names(&self.scan(now))
        }
    }

    fn names(scan: &Scan) -> Vec<String> {
        scan.candidates.iter().map(|candidate| candidate.name.clone()).collect()
    }

    /// Both clocks that much later.
    fn later(moment: Moment, by: Duration) -> Moment {
        Moment { monotonic: moment.monotonic + by, wall: moment.wall + by }
    }

    /// The wall clock alone put on, or back.
    fn jumped(moment: Moment, seconds: i64) -> Moment {
        let by = Duration::from_secs(seconds.unsigned_abs());
        Moment { wall: if seconds < 0 { moment.wall - by } else { moment.wall + by }, ..moment }
    }

    #[test]
    fn only_files_to_be_sent_wait() {
        let (mut bench, now) = Bench::steady();
        for name in ["a", "b.csv", ".hidden", "c.part", "d~", "a.meta.json"] {
            bench.write(name, "{}");
        }
        fs::create_dir(bench.temp.path().join("sent")).unwrap();
        fs::write(bench.temp.path().join("sent/e"), "").unwrap();
        let scan = bench.scan(later(now, SETTLE));
        assert_eq!(names(&scan), ["a", "b.csv"]);
        assert_eq!((scan.waiting_files, scan.waiting_bytes, scan.unsettled_files, scan.unusable_files), (2, 4, 0, 0));
        assert_eq!((scan.settles_in, scan.is_capped, scan.failed), (None, false, vec![]));
    }

    #[test]
    fn what_cannot_be_sent_is_named_with_the_reason() {
        let (mut bench, now) = Bench::steady();
        symlink("/etc/passwd", bench.temp.path().join("link")).unwrap();
        fs::write(bench.temp.path().join(Path::new(std::ffi::OsStr::from_bytes(b"a\xffb"))), "").unwrap();
        bench.write("a\nb", "");
        bench.write("c", "");
        bench.write("c.meta.json", "{\"prio\":1}");
        let mut scan = bench.scan(later(now, SETTLE));
        scan.unusable.sort_by(|one, other| one.name.cmp(&other.name));
        let unusable: Vec<(&str, &str)> =
            scan.unusable.iter().map(|parked| (parked.name.as_str(), parked.reason.as_str())).collect();
        assert_eq!(
            unusable,
            [
                ("a\\nb", "its name has control characters"),
                ("a\u{fffd}b", "its name is not UTF-8 text"),
                (
                    "c",
                    "its sidecar: unknown field `prio`, expected one of `priority`, `type`, `metadata` at line 1 column 7"
                ),
                ("link", "not a regular file"),
            ]
        );
        assert_eq!((scan.unusable_files, scan.waiting_files), (4, 0));
    }

    #[test]
    fn what_the_ledger_knows_does_not_wait() {
        let (mut bench, now) = Bench::steady();
        for name in ["kept", "stuck", "parked", "new"] {
            bench.write(name, "1");
        }
        let now = later(now, SETTLE);
        let parking = Parking { reason: Reason::Refused, status: 415 };
        for candidate in bench.scan(now).candidates {
            let verdict = match candidate.name.as_str() {
                "kept" => Verdict::Kept,
                "stuck" => Verdict::Stuck,
                "parked" => Verdict::Parked(parking),
                _ => continue,
            };
            bench.known.push((candidate.key, verdict));
        }
        let mut scan = bench.scan(now);
        assert_eq!((names(&scan), scan.waiting_files, scan.waiting_bytes), (vec!["new".to_owned()], 1, 1));
        assert_eq!((scan.kept_files, scan.parked_files), (1, 2));
        assert_eq!(scan.stuck.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>(), ["stuck"]);
        scan.parked.sort_by(|one, other| one.name.cmp(&other.name));
        let reasons: Vec<&str> = scan.parked.iter().map(|parked| parked.reason.as_str()).collect();
        assert_eq!(reasons, ["refused (HTTP 415)", "it was sent, and could not be removed"]);
    }

    #[test]
    fn the_first_are_those_of_high_priority_then_the_oldest_then_by_name() {
        let (mut bench, now) = Bench::steady();
        bench.old("young", SECOND);
        bench.old("old", 9 * SECOND);
        bench.old("urgent", SECOND);
        bench.write("urgent.meta.json", "{\"priority\":\"high\"}");
        bench.old("ancient", 99 * SECOND);
        bench.write("ancient.meta.json", "{\"priority\":\"low\"}");
        let time = SystemTime::now() - 5 * SECOND;
        for name in ["b", "a", "c"] {
            let file = File::create(bench.temp.path().join(name)).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
        let now = later(now, SETTLE);
        let all = ["urgent", "old", "a", "b", "c", "young", "ancient"];
        assert_eq!(bench.settled(now), all);
        for limit in 0..all.len() {
            bench.limit = limit;
            let scan = bench.scan(now);
            assert_eq!((names(&scan), scan.waiting_files), (all[..limit].iter().map(ToString::to_string).collect(), 7));
        }
    }

    #[test]
    fn a_file_that_was_renamed_in_is_taken_at_once_and_not_if_it_changes_afterwards() {
        let mut bench = Bench::new();
        let now = Moment::now();
        bench.write("a", "1");
        bench.write("b", "1");
        bench.scanner.renamed_in(0, "a");
        bench.scanner.renamed_in(1, "b");
        bench.scanner.renamed_in(0, "vanished");
        assert_eq!(bench.settled(now), ["a"]);
        assert_eq!(bench.settled(later(now, SECOND)), ["a"], "it stays so");
        bench.write("a", "12");
        assert!(bench.settled(later(now, 2 * SECOND)).is_empty());
    }

    #[test]
    fn any_other_file_is_taken_when_it_has_not_changed_for_a_while_whatever_its_mtime_is() {
        let (mut bench, now) = Bench::steady();
        // The kernel stamps files by its tick: behind the clock.
        std::thread::sleep(Duration::from_millis(30));
        bench.old("copied", 1000 * SECOND);
        let scan = bench.scan(now);
        assert_eq!((names(&scan).len(), scan.waiting_files, scan.unsettled_files), (0, 1, 1));
        let settles_in = scan.settles_in.unwrap();
        assert!(settles_in < SECOND, "{settles_in:?}");
        assert_eq!(bench.settled(later(now, settles_in)), ["copied"]);
        assert!(bench.scanner.young.is_empty(), "nothing has to be remembered");
    }

    #[test]
    fn after_a_start_the_clock_must_be_known_to_be_steady_first() {
        let mut bench = Bench::new();
        bench.write("a", "");
        // Written a day ago, says the clock: or it was set since.
        let now = later(Moment::now(), 86_400 * SECOND);
        let scan = bench.scan(now);
        assert_eq!((names(&scan).len(), scan.settles_in), (0, Some(SETTLE)));
        assert!(bench.settled(later(now, Duration::from_millis(9_999))).is_empty());
        assert_eq!(bench.settled(later(now, SETTLE)), ["a"]);
    }

    #[test]
    fn a_clock_that_is_put_on_does_not_hasten_a_file() {
        let (mut bench, now) = Bench::steady();
        bench.write("a", "1");
        let now = jumped(later(now, SECOND), 3600);
        assert!(bench.settled(now).is_empty(), "it only seems to be an hour old");
        let now = later(now, SETTLE / 2);
        bench.write("a", "12");
        // By the kernel's clock, which did not jump: long ago. So this is what an unsteady clock shows.
        assert!(bench.settled(jumped(now, 3600)).is_empty());
        assert!(bench.settled(later(jumped(now, 3600), SETTLE / 2)).is_empty());
        assert_eq!(bench.settled(later(jumped(now, 3600), SETTLE)), ["a"]);
    }

    #[test]
    fn a_clock_that_is_put_back_or_jumps_all_the_time_does_not_keep_a_file_for_ever() {
        let (mut bench, now) = Bench::steady();
        bench.write("a", "");
        let now = jumped(now, -86_400);
        let scan = bench.scan(now);
        assert_eq!((names(&scan).len(), scan.settles_in), (0, Some(SETTLE)));
        assert_eq!(bench.settled(later(now, SETTLE)), ["a"], "though it is from the future");

        bench.write("b", "");
        let mut moment = later(now, SETTLE);
        let mut seconds = 0;
        let settled_after = (0..30).find(|round| {
            moment = jumped(later(moment, SECOND), if round % 2 == 0 { 500 } else { -500 });
            seconds += 1;
            bench.settled(moment).contains(&"b".to_owned())
        });
        assert_eq!(settled_after, Some(10), "{seconds}");
    }

    #[test]
    fn what_a_wrong_clock_makes_remembered_is_bounded_and_comes_through_in_turns() {
        let (mut bench, now) = Bench::steady();
        for n in 0..MAX_YOUNG + 100 {
            bench.write(&format!("{n:04}"), "");
        }
        bench.limit = 2 * MAX_YOUNG;
        let now = jumped(now, -86_400);
        bench.scan(now);
        assert_eq!(bench.scanner.young.len(), MAX_YOUNG);
        let first = bench.settled(later(now, SETTLE));
        assert_eq!(first.len(), MAX_YOUNG);
        for name in &first {
            fs::remove_file(bench.temp.path().join(name)).unwrap();
        }
        assert!(bench.settled(later(now, SETTLE)).is_empty());
        assert!(bench.settled(later(now, SETTLE)).is_empty());
        assert_eq!(bench.settled(later(now, 2 * SETTLE)).len(), 100);
        assert_eq!(bench.scanner.young.len(), 100);
    }

    #[test]
    fn a_clock_that_is_slewed_is_steady() {
        let mut bench = Bench::new();
        bench.write("a", "");
        let mut now = Moment::now();
        for _ in 0..30 {
            bench.scan(now);
            now = later(now, SECOND);
            now.wall += Duration::from_micros(500);
        }
        assert_eq!(bench.settled(now), ["a"]);
        assert!(bench.scanner.young.is_empty());
    }

    #[test]
    fn names_of_what_was_renamed_in_are_bounded() {
        let mut bench = Bench::new();
        for n in 0..2 * MAX_RENAMED_IN {
            bench.scanner.renamed_in(0, &n.to_string());
        }
        assert_eq!(bench.scanner.renamed_in.len(), MAX_RENAMED_IN);
        bench.scan(Moment::now());
        assert!(bench.scanner.renamed_in.is_empty());
    }

    #[test]
    fn a_folder_that_is_not_there_leaves_the_others_to_be_looked_at() {
        let (mut bench, now) = Bench::steady();
        bench.write("a", "");
        bench.folders.insert(0, None);
        let gone = tempfile::tempdir().unwrap();
        bench.folders.insert(0, Some(Folder::open(gone.path()).unwrap()));
        drop(gone);
        let scan = bench.scan(later(now, SETTLE));
        assert_eq!(scan.failed, [(0, Errno::NOENT)]);
        assert_eq!((scan.candidates[0].folder, scan.candidates[0].name.as_str()), (2, "a"));
    }

    #[test]
    fn all_that_is_stuck_has_its_turn() {
        let (mut bench, now) = Bench::steady();
        for index in 0..25 {
            bench.write(&index.to_string(), "content");
        }
        let now = later(now, 2 * SETTLE);
        for candidate in bench.scan(now).candidates {
            bench.known.push((candidate.key, Verdict::Stuck));
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            let scan = bench.scan(now);
            assert_eq!((scan.stuck.len(), scan.parked_files), (10, 25));
            bench.scanner.stuck_after(scan.stuck[9].key);
            seen.extend(scan.stuck.into_iter().map(|stuck| stuck.name));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 25);
    }

    #[test]
    fn what_is_known_is_asked_for_with_the_file_as_it_is() {
        let (mut bench, now) = Bench::steady();
        bench.write("a", "123");
        let asked = RefCell::new(Vec::new());
        let known = |key, file: &Identity| {
            asked.borrow_mut().push((key, *file));
            None
        };
        let scan = bench.scanner.scan(
            &bench.folders,
            bench.salt,
            &known,
            Most { candidates: 1, named: 10 },
            later(now, SETTLE),
        );
        let candidate = &scan.candidates[0];
        assert_eq!(*asked.borrow(), [(candidate.key, candidate.identity)]);
        assert_eq!(candidate.key, bench.salt.key(bench.temp.path(), "a", &candidate.identity));
        assert_eq!(candidate.identity.size, 3);
    }

    #[test]
    fn sidecars_beyond_a_bound_are_left_to_those_who_send_the_file() {
        let (mut bench, now) = Bench::steady();
        let padding = " ".repeat(16_000);
        for n in 0..400 {
            bench.write(&format!("{n:03}"), "");
            bench.write(&format!("{n:03}.meta.json"), &format!("{{\"priority\":\"high\"}}{padding}"));
        }
        bench.limit = 1000;
        let scan = bench.scan(later(now, SETTLE));
        let high = scan.candidates.iter().filter(|candidate| candidate.priority == Priority::High).count();
        assert_eq!((scan.candidates.len(), high), (400, 262));
    }
}
