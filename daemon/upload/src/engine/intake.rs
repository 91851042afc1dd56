//! What lies in the outboxes and is to be sent, and what becomes of it there.

use std::{
    cell::RefCell,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use crate::{
    job::Job,
    journal::Journal,
    ledger::{Key, Ledger, MAX_ENTRIES, Parking, Reason, Salt, Verdict},
    outbox::{
        Finished, Folder, Identity, Priority, Unusable, finish, recover_leftovers,
        scan::{Candidate, Look, Moment, Most, Scan, Scanner},
        sidecar,
        watch::{Changes, Watch},
    },
    settings::{After, Settings},
    status::Parked,
    trouble::{Kind, Trouble},
};

/// Files that are known to be next; when they are through it is looked again.
pub(super) const MOST_CANDIDATES: usize = 256;
/// Files that need a person and are named in the status.
const MOST_NAMED: usize = 10;
/// Between two attempts to open what could not be opened.
const RETRY: Duration = Duration::from_secs(30);
/// How long a look goes on before others have their turn: what is sent waits meanwhile.
const AT_A_TIME: Duration = Duration::from_millis(5);
/// How much longer than a look takes nothing is looked at after it, however much changes: to look at a full outbox takes long,
/// and nothing is sent meanwhile.
const REST: u32 = 9;
/// Verdicts that the ledger did not take and that are remembered here.
const MOST_UNWRITTEN: usize = 256;
/// Journals that are looked at when the engine starts: there are as many as files were begun and did not arrive.
const MOST_JOURNALS: usize = 10_000;

/// The outboxes.
pub(super) struct Intake {
    state_dir: PathBuf,
    outboxes: Vec<PathBuf>,
    /// Of the outboxes, in their order.
    folders: Folders,
    watch: Watch,
    scanner: Scanner,
    ledger: Option<Ledger>,
    /// What the ledger did not take.
    unwritten: Vec<(Key, Identity, Verdict)>,
    /// With so many files in the ledger it is looked at which of them are still there.
    pub(super) sweeps_from: usize,
    /// Why nothing can be begun.
    blocked: Option<String>,
    /// Why an outbox is not looked into, or not as it should be.
    faults: Vec<Parked>,
    scan: Scan,
    /// The look that is under way.
    under_way: Option<UnderWay>,
    /// Something has changed since the last scan began.
    dirty: bool,
    settles_at: Option<Instant>,
    /// So that looks leave most of the time to what is sent.
    rests_until: Option<Instant>,
    retry_at: Option<Instant>,
    /// Outboxes that were opened and not yet looked through for what an earlier run left behind.
    unrecovered: Vec<PathBuf>,
    /// And those where what it took aside was not yet put back.
    not_put_back: Vec<PathBuf>,
}

/// Shared with those who open files in them, so that nobody holds a folder that another one has taken the place of: it could not
/// be unmounted.
type Folders = Rc<RefCell<Vec<Option<Folder>>>>;

/// A look, and what became of files while it is under way: it may have seen them before that.
struct UnderWay {
    look: Look,
    /// Of files that the ledger knows, where that is to be swept.
    seen: Option<RefCell<Vec<Key>>>,
    /// Where files lie that were changed while they were sent; `None`: there was none when it began.
    places: Option<RefCell<Vec<Key>>>,
    /// Files that are no candidates any more.
    dropped: Vec<Key>,
    took: Duration,
}

/// A file that is next.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) key: Key,
    pub(super) priority: Priority,
    candidate: Candidate,
}

/// What an earlier run of the daemon left behind.
pub(super) enum Leftover {
    /// It had arrived, and was not put away.
    Arrived(Key, Job),
    /// It was begun, and its file is gone or another one.
    Lost(Key, Job, Trouble),
}

impl Taken {
    /// What the file was at the last look.
    pub(super) const fn identity(&self) -> Identity {
        self.candidate.identity
    }
}

impl Intake {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut this = Self {
            state_dir: settings.state_dir.clone(),
            outboxes: Vec::new(),
            folders: Rc::default(),
            watch: Watch::new(&settings.outboxes),
            scanner: Scanner::new(settings.settle),
            ledger: None,
            unwritten: Vec::new(),
            sweeps_from: MAX_ENTRIES / 4 * 3,
            blocked: None,
            faults: Vec::new(),
            scan: Scan::default(),
            under_way: None,
            dirty: true,
            settles_at: None,
            rests_until: None,
            retry_at: None,
            unrecovered: Vec::new(),
            not_put_back: Vec::new(),
        };
        this.follow(settings);
        this
    }

    /// Goes by other settings.
    pub(super) fn follow(&mut self, settings: &Settings) {
        self.scanner.set_settle(settings.settle);
        if self.outboxes != settings.outboxes {
            self.outboxes.clone_from(&settings.outboxes);
            self.folders.take();
            self.watch = Watch::new(&self.outboxes);
        }
        self.under_way = None;
        // What could not be opened is tried at once: that may be what was mended.
        (self.dirty, self.retry_at) = (true, Some(Instant::now()));
    }

    /// Resolves when something was put into an outbox. Safe to cancel.
    pub(super) async fn changed(&mut self) {
        let Changes { renamed_in, reopen, .. } = self.watch.changed().await;
        for (folder, name) in renamed_in {
            self.scanner.renamed_in(folder, &name);
        }
        self.dirty = true;
        if reopen {
            self.retry_at = Some(Instant::now());
        }
    }

    /// Looks at the outboxes where that is due: whether it did, and when it is due next.
    pub(super) fn refresh(&mut self, settings: &Settings, now: Instant) -> (bool, Option<Instant>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.folders.borrow().len() != self.outboxes.len() || due(self.retry_at) || !self.all_are_current() {
            self.open(settings, now);
        }
        let through = self.scan.candidates.is_empty() && self.scan.waiting_files > self.scan.unsettled_files;
        let wanted = self.dirty || due(self.settles_at);
        let rests = self.rests_until.filter(|until| wanted && *until > now);
        if self.under_way.is_none() && (through || (wanted && rests.is_none())) {
            self.begin_look();
        }
        if self.under_way.is_some() {
            let looked = self.look(settings);
            // Not before others had their turn.
            let next = if looked { self.settles_at } else { Some(now) };
            return (looked, [next, self.retry_at].into_iter().flatten().min());
        }
        let settles_at = if rests.is_some() { rests } else { self.settles_at };
        (false, [settles_at, self.retry_at].into_iter().flatten().min())
    }

    /// Whether a look is under way, and goes on at the next call of [`Self::refresh`].
    pub(super) const fn is_looking(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether outboxes are still the folders that they were; only asked where something has changed.
    fn all_are_current(&self) -> bool {
        !self.dirty || self.folders.borrow().iter().flatten().all(Folder::is_current)
    }

    /// Opens what can be opened.
    fn open(&mut self, settings: &Settings, now: Instant) {
        self.retry_at = None;
        self.faults.clear();
        self.blocked = None;
        if self.ledger.is_none() {
            match open_ledger(&self.state_dir) {
                Ok(ledger) => self.ledger = Some(ledger),
                Err(error) => {
                    self.blocked = Some(format!("{} cannot be used: {error}", self.state_dir.display()));
                }
            }
        }
        let mut folders = Vec::new();
        for outbox in &self.outboxes {
            let opened = Folder::open(outbox).and_then(|folder| {
                if settings.after != After::Keep {
                    folder.check_writable()?;
                }
                Ok(folder)
            });
            folders.push(match opened {
                Ok(folder) => Some(folder),
                // Where nothing is to be sent, nobody need have made it, and it may be on a read-only disk.
                Err(_) if settings.endpoint.is_none() => None,
                Err(error) => {
                    let name = outbox.display().to_string();
                    self.faults.push(Parked { name, reason: error.to_string(), folder: folders.len(), bytes: 0 });
                    None
                }
            });
        }
        if let Some(reason) = self.watch.polls_for() {
            warn!(reason, "outboxes are not watched");
        }
        if !self.faults.is_empty() || self.blocked.is_some() {
            self.retry_at = Some(now + RETRY);
        }
        let before = self.folders.replace(folders);
        let same = |(before, now): (&Option<Folder>, &Option<Folder>)| match (before, now) {
            (Some(before), Some(now)) => before.is_same(now),
            (None, None) => true,
            _ => false,
        };
        if before.len() != self.outboxes.len() || !before.iter().zip(&*self.folders.borrow()).all(same) {
            self.under_way = None;
        }
        for folder in self.folders.borrow().iter().flatten() {
            let is_new = !before.iter().flatten().any(|before| before.is_same(folder));
            if is_new && !self.unrecovered.iter().any(|path| path == folder.path()) {
                self.unrecovered.push(folder.path().to_owned());
            }
        }
        self.dirty = true;
        let unwritten = std::mem::take(&mut self.unwritten);
        for (key, identity, verdict) in unwritten {
            self.note(key, identity, verdict);
        }
    }

    fn begin_look(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        let seen = (ledger.len() >= self.sweeps_from).then(RefCell::default);
        let places = (!ledger.places().is_empty()).then(RefCell::default);
        self.scanner.ask_for_places(places.is_some() || !self.unwritten.is_empty());
        let look = self.scanner.begin(Most { candidates: MOST_CANDIDATES, named: MOST_NAMED }, Moment::now());
        self.under_way = Some(UnderWay { look, seen, places, dropped: Vec::new(), took: Duration::ZERO });
        (self.dirty, self.settles_at) = (false, None);
    }

    /// Goes on with the look that is under way, for as long as that may take at a time; whether it is done.
    fn look(&mut self, settings: &Settings) -> bool {
        let (Some(mut under_way), Some(ledger)) = (self.under_way.take(), &self.ledger) else { return false };
        let known = |key: Key, identity: &Identity| {
            let found = known(&self.unwritten, ledger, key, identity);
            if let (Some(seen), true) = (&under_way.seen, found.is_some()) {
                seen.borrow_mut().push(key);
            }
            if let (Some(places), Some(Verdict::Changed(_))) = (&under_way.places, found) {
                places.borrow_mut().push(key);
            }
            found
        };
        let began = Instant::now();
        let mut done = false;
        while !done && began.elapsed() < AT_A_TIME {
            done = self.scanner.go_on(&mut under_way.look, &self.folders.borrow(), ledger.salt(), &known);
        }
        under_way.took += began.elapsed();
        if !done {
            self.under_way = Some(under_way);
            return false;
        }
        let took = under_way.took + began.elapsed();
        self.end_look(under_way, settings);
        self.rests_until = Some(Instant::now() + took * REST);
        true
    }

    fn end_look(&mut self, under_way: UnderWay, settings: &Settings) {
        self.scan = self.scanner.end(under_way.look);
        if let Some(seen) = under_way.seen {
            self.sweep(seen.into_inner());
        }
        if let Some(places) = under_way.places {
            self.sweep_places(&places.into_inner());
        }
        for key in under_way.dropped {
            self.drop_candidate(key);
        }
        for place in std::mem::take(&mut self.scan.replaced) {
            self.forget(place);
        }
        self.dirty |= self.put_away_what_stuck(settings);
        for (folder, errno) in &self.scan.failed {
            let name = self.outboxes.get(*folder).map_or_else(String::new, |outbox| outbox.display().to_string());
            self.scan.unusable.push(Parked { name, reason: errno.to_string(), folder: *folder, bytes: 0 });
        }
        self.settles_at =
            self.scan.settles_in.map(|settles_in| Instant::now() + settles_in + Duration::from_millis(20));
    }

    // -- What is next

    /// The best file that is not `busy`: by importance, then those that gave no trouble, then the oldest.
    pub(super) fn best(&self, busy: impl Fn(Key) -> bool, troubles: impl Fn(Key) -> u32) -> Option<Taken> {
        if self.blocked.is_some() || self.unwritten.len() >= MOST_UNWRITTEN {
            return None;
        }
        let free = self.scan.candidates.iter().filter(|candidate| !busy(candidate.key));
        let best = free.min_by_key(|candidate| (candidate.priority, troubles(candidate.key)))?;
        Some(Taken { key: best.key, priority: best.priority, candidate: best.clone() })
    }

    /// What is to be done with it; `None`: it is no longer what it was.
    pub(super) fn job(&mut self, taken: &Taken) -> Option<Job> {
        let job = self.job_of(&taken.candidate);
        if job.is_none() {
            self.scan.candidates.retain(|candidate| candidate.key != taken.key);
            self.dirty = true;
        }
        job
    }

    fn job_of(&self, candidate: &Candidate) -> Option<Job> {
        let folders = self.folders.borrow();
        let folder = folders.get(candidate.folder)?.as_ref()?;
        let sidecar = sidecar::read(folder, &candidate.name).ok()?;
        let mut job = Job::new(
            folder.path().to_owned(),
            candidate.name.clone(),
            candidate.identity,
            self.opener(folder.path(), &candidate.name),
            journal_path(&self.state_dir, candidate.key),
        );
        job.priority = candidate.priority;
        job.content_type = sidecar.media_type;
        job.metadata = sidecar.metadata;
        job.sidecar = sidecar.identity;
        Some(job)
    }

    /// Opens the file of that name, whatever it is by then.
    fn opener(&self, outbox: &Path, name: &str) -> Box<dyn Fn() -> Result<fs::File, Trouble>> {
        let (folders, outbox, name) = (Rc::clone(&self.folders), outbox.to_owned(), name.to_owned());
        Box::new(move || {
            let folders = folders.borrow();
            let folder = folders.iter().flatten().find(|folder| folder.path() == outbox);
            // Another disk is to be mounted, perhaps.
            let folder = folder.ok_or_else(|| Trouble::new(Kind::Busy, "its outbox is not there for now"))?;
            folder.open_file(&name).map(|(file, _)| file).map_err(|error| {
                let kind = match error {
                    Unusable::Vanished => Kind::Vanished,
                    _ if error.may_pass() => Kind::Busy,
                    _ => Kind::Unreadable,
                };
                Trouble::new(kind, format!("the file cannot be opened: {error}"))
            })
        })
    }

    // -- What becomes of it

    /// Does with a file that arrived what is to be done with it. Whether that is done, or noted: until then its journal alone knows
    /// that it has arrived.
    pub(super) fn put_away(&mut self, key: Key, job: &Job, after: After) -> bool {
        self.drop_candidate(key);
        if let Some(place) = self.ledger.as_ref().map(|ledger| ledger.salt().place(&job.outbox, &job.name)) {
            self.forget(place);
        }
        let finished = {
            let folders = self.folders.borrow();
            let folder = folders.iter().flatten().find(|folder| folder.path() == job.outbox);
            let Some(folder) = folder else { return false };
            finish(folder, &job.name, &job.identity, job.sidecar.as_ref(), after)
        };
        match finished {
            Ok(Finished::Kept) => self.note(key, job.identity, Verdict::Kept),
            Ok(Finished::Removed | Finished::Moved(_) | Finished::Another | Finished::Vanished) => true,
            Err(error) => {
                warn!(%error, name = job.name, "a file was sent and cannot be put away");
                self.dirty = true;
                self.note(key, job.identity, Verdict::Stuck)
            }
        }
    }

    /// Puts a file aside for a person.
    pub(super) fn park(&mut self, key: Key, job: &Job, reason: Reason, status: u16) {
        self.look_again(key);
        match reason {
            // Nothing is there to be put aside: what comes under that name is another file.
            Reason::Vanished => {}
            Reason::Changed => self.note_change(job),
            _ => _ = self.note(key, job.identity, Verdict::Parked(Parking { reason, status })),
        }
    }

    /// Notes that a file was changed while it was sent, if it is still the one that lies there.
    fn note_change(&mut self, job: &Job) {
        let Some((place, identity)) = self.lies(job) else { return };
        let times = self.changes(place, &identity) + 1;
        self.note(place, identity, Verdict::Changed(times));
    }

    /// How often the file that lies there was changed before while it was sent.
    pub(super) fn changed_before(&self, job: &Job) -> u16 {
        self.lies(job).map_or(0, |(place, identity)| self.changes(place, &identity))
    }

    /// The place of a file, and what it is by now.
    fn lies(&self, job: &Job) -> Option<(Key, Identity)> {
        let folders = self.folders.borrow();
        let folder = folders.iter().flatten().find(|folder| folder.path() == job.outbox)?;
        let (_, identity) = folder.open_file(&job.name).ok().filter(|(_, now)| now.ino == job.identity.ino)?;
        Some((self.ledger.as_ref()?.salt().place(&job.outbox, &job.name), identity))
    }

    fn changes(&self, place: Key, identity: &Identity) -> u16 {
        match self.known(place, identity) {
            Some(Verdict::Changed(times)) => times,
            _ => 0,
        }
    }

    fn known(&self, key: Key, identity: &Identity) -> Option<Verdict> {
        known(&self.unwritten, self.ledger.as_ref()?, key, identity)
    }

    /// Forgets what was noted about a place.
    fn forget(&mut self, key: Key) {
        self.unwritten.retain(|(other, ..)| *other != key);
        if let Some(Err(error)) = self.ledger.as_mut().map(|ledger| ledger.forget(key)) {
            warn!(%error, "the ledger of uploads cannot be written");
        }
    }

    /// Its file is not what it was at the last look.
    pub(super) fn look_again(&mut self, key: Key) {
        self.drop_candidate(key);
        self.dirty = true;
    }

    /// Files that were sent and could not be removed: perhaps they can be by now. A few at a time, so that all have their turn;
    /// whether there may be more that can.
    fn put_away_what_stuck(&mut self, settings: &Settings) -> bool {
        let all = std::mem::take(&mut self.scan.stuck);
        let is_full = all.len() == MOST_NAMED;
        let mut any = false;
        for stuck in all {
            self.scanner.stuck_after(stuck.key);
            let finished = {
                let folders = self.folders.borrow();
                let Some(folder) = folders.get(stuck.folder).and_then(Option::as_ref) else { continue };
                let sidecar = sidecar::read(folder, &stuck.name).ok().and_then(|sidecar| sidecar.identity);
                finish(folder, &stuck.name, &stuck.identity, sidecar.as_ref(), settings.after)
            };
            let verdict = match finished {
                Ok(Finished::Kept) => Some(Verdict::Kept),
                Ok(_) => None,
                Err(_) => continue,
            };
            any = true;
            match verdict {
                Some(verdict) => {
                    self.unwritten.retain(|(key, ..)| *key != stuck.key);
                    self.note(stuck.key, stuck.identity, verdict);
                }
                None => self.forget(stuck.key),
            }
        }
        is_full && any
    }

    fn drop_candidate(&mut self, key: Key) {
        if let Some(under_way) = &mut self.under_way {
            under_way.dropped.push(key);
        }
        let Some(at) = self.scan.candidates.iter().position(|candidate| candidate.key == key) else { return };
        let gone = self.scan.candidates.remove(at);
        self.scan.waiting_files = self.scan.waiting_files.saturating_sub(1);
        self.scan.waiting_bytes = self.scan.waiting_bytes.saturating_sub(gone.identity.size);
    }

    /// Notes what became of a file; whether a start after a crash finds that.
    fn note(&mut self, key: Key, identity: Identity, verdict: Verdict) -> bool {
        self.unwritten.retain(|(other, ..)| *other != key);
        let written = match &mut self.ledger {
            Some(ledger) => ledger.put(key, &identity, verdict).map_err(|error| error.to_string()),
            None => Err("the ledger of uploads is not open".to_owned()),
        };
        if let Some(under_way) = &self.under_way {
            // It may have been there before.
            for seen in [&under_way.seen, &under_way.places].into_iter().flatten() {
                seen.borrow_mut().push(key);
            }
        }
        let is_written = written.is_ok();
        if let Err(error) = written {
            warn!(error, "what became of a file is remembered in memory only");
            self.unwritten.push((key, identity, verdict));
            self.blocked = (self.unwritten.len() >= MOST_UNWRITTEN).then_some(error);
            self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
        }
        is_written
    }

    /// Has those that were put aside tried again; how many those were.
    pub(super) fn retry_parked(&mut self) -> u64 {
        let here = self.unwritten.len();
        self.unwritten.retain(|(.., verdict)| !matches!(verdict, Verdict::Parked(_) | Verdict::Changed(_)));
        let here = here - self.unwritten.len();
        let there = self.ledger.as_mut().map_or(Ok(0), Ledger::retry_all).unwrap_or_else(|error| {
            warn!(%error, "files that are put aside cannot be tried again");
            0
        });
        (self.dirty, self.retry_at) = (true, Some(Instant::now()));
        (here + there) as u64
    }

    /// What an earlier run left behind in outboxes that were opened since the last call: at the start, or mounted later.
    pub(super) fn leftovers(&mut self) -> Vec<Leftover> {
        let Some(salt) = self.ledger.as_ref().map(Ledger::salt) else { return Vec::new() };
        if self.unrecovered.is_empty() {
            return Vec::new();
        }
        let opened = std::mem::take(&mut self.unrecovered);
        let mut left = Vec::new();
        let names = fs::read_dir(&self.state_dir).into_iter().flatten().map_while(Result::ok).take(MOST_JOURNALS);
        for path in names.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "journal"))
        {
            match self.leftover(&path, salt, &opened) {
                Ok(Some(leftover)) => left.push(leftover),
                Ok(None) => {}
                Err(error) => warn!(%error, path = %path.display(), "the journal of an upload cannot be read"),
            }
        }
        self.not_put_back.extend(opened);
        left
    }

    /// Whatever is known to have arrived is put away. Then what an earlier run took aside and did not know to have arrived can be
    /// put back.
    pub(super) fn all_is_told(&mut self) {
        if self.not_put_back.is_empty() {
            return;
        }
        let opened = std::mem::take(&mut self.not_put_back);
        for folder in
            self.folders.borrow().iter().flatten().filter(|folder| opened.iter().any(|it| it == folder.path()))
        {
            match recover_leftovers(folder) {
                Ok(0) => {}
                Ok(count) => info!(count, folder = %folder.path().display(), "files that were taken aside are back"),
                Err(error) => warn!(%error, "files that were taken aside cannot be put back"),
            }
        }
        self.dirty = true;
    }

    fn leftover(&self, path: &Path, salt: Salt, new: &[PathBuf]) -> io::Result<Option<Leftover>> {
        let Some(journal) = Journal::open(path)? else {
            return fs::remove_file(path).map(|()| None);
        };
        let begin = journal.known().begin.clone();
        if !new.contains(&begin.outbox) {
            return Ok(None);
        }
        let folders = self.folders.borrow();
        let folder = folders.iter().flatten().find(|folder| folder.path() == begin.outbox);
        let Some(folder) = folder else { return Ok(None) };
        let key = salt.key(&begin.outbox, &begin.name, &begin.identity);
        let opener = self.opener(&begin.outbox, &begin.name);
        let mut job = Job::new(begin.outbox.clone(), begin.name.clone(), begin.identity, opener, path.to_owned());
        job.sidecar = sidecar::read(folder, &begin.name).ok().and_then(|sidecar| sidecar.identity);
        let finished = journal.known().finished;
        job.journal = Some(journal);
        if finished {
            return Ok(Some(Leftover::Arrived(key, job)));
        }
        if let Err(trouble) = job.is_there()
            && matches!(trouble.kind, Kind::Vanished | Kind::Changed)
        {
            return Ok(Some(Leftover::Lost(key, job, trouble)));
        }
        // The ledger, and with it what names are made of, may be another one.
        let wanted = journal_path(&self.state_dir, key);
        if wanted != path {
            fs::rename(path, wanted)?;
        }
        Ok(None)
    }

    /// As after a look that took long.
    #[cfg(test)]
    pub(super) const fn rest_until(&mut self, moment: Instant) {
        self.rests_until = Some(moment);
    }

    /// Files in the ledger.
    #[cfg(test)]
    pub(super) fn known_files(&self) -> usize {
        self.ledger.as_ref().map_or(0, Ledger::len)
    }

    // -- What is shown

    pub(super) fn blocked(&self) -> Option<String> {
        self.blocked.clone()
    }

    pub(super) const fn waiting(&self) -> (u64, u64) {
        (self.scan.waiting_files, self.scan.waiting_bytes)
    }

    pub(super) fn parked(&self) -> (u64, Vec<Parked>) {
        (self.scan.parked_files, self.scan.parked.clone())
    }

    pub(super) fn unusable(&self) -> Vec<Parked> {
        self.faults.iter().chain(&self.scan.unusable).cloned().collect()
    }

    /// A look for somebody who wants to see all, as far as that is bounded.
    pub(super) fn list(&self, limit: usize) -> (Scan, Vec<PathBuf>) {
        let Some(ledger) = &self.ledger else { return (Scan::default(), self.outboxes.clone()) };
        let known = |key: Key, identity: &Identity| known(&self.unwritten, ledger, key, identity);
        let most = Most { candidates: limit, named: limit };
        // The look that is under way is not to lose what this one has seen.
        let mut scanner = self.scanner.clone();
        let scan = scanner.scan(&self.folders.borrow(), ledger.salt(), &known, most, Moment::now());
        (scan, self.outboxes.clone())
    }

    /// Whether the last look saw all that there is.
    fn saw_all(&self) -> bool {
        !self.scan.is_capped && self.scan.failed.is_empty() && self.folders.borrow().iter().all(Option::is_some)
    }

    /// Forgets that files were changed which no longer lie there: what comes in their place may have their number.
    fn sweep_places(&mut self, seen: &[Key]) {
        if !self.saw_all() {
            return;
        }
        for place in self.ledger.as_ref().map_or_else(Vec::new, Ledger::places) {
            if !seen.contains(&place) {
                self.forget(place);
            }
        }
    }

    /// Forgets files that are no longer in an outbox, when the ledger is getting full: what it is full of is no use, and without
    /// room in it nothing could be sent any more.
    fn sweep(&mut self, mut seen: Vec<Key>) {
        let all_seen = self.saw_all();
        let Some(ledger) = self.ledger.as_mut().filter(|ledger| all_seen && ledger.len() >= self.sweeps_from) else {
            return;
        };
        seen.sort_unstable();
        match ledger.sweep(&|key| seen.binary_search(&key).is_ok()) {
            Ok(0) => {}
            Ok(count) => info!(count, "files that have left the outboxes are forgotten"),
            Err(error) => warn!(%error, "files that have left the outboxes cannot be forgotten"),
        }
    }
}

/// What is noted about a file, on disk or here.
fn known(unwritten: &[(Key, Identity, Verdict)], ledger: &Ledger, key: Key, identity: &Identity) -> Option<Verdict> {
    let here = unwritten.iter().rfind(|(other, ..)| *other == key);
    let here = here.filter(|(_, noted, verdict)| verdict.is_about(noted, identity)).map(|(.., verdict)| *verdict);
    here.or_else(|| ledger.find(key, identity))
}

fn journal_path(state_dir: &Path, Key(key): Key) -> PathBuf {
    state_dir.join(format!("{key:016x}.journal"))
}

fn open_ledger(state_dir: &Path) -> io::Result<Ledger> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let (ledger, damage) = Ledger::open(&state_dir.join("ledger"))?;
    if damage != crate::ledger::Damage::default() {
        warn!(?damage, "the ledger of uploads was damaged: files that were parked or kept may be sent again");
    }
    Ok(ledger)
}
