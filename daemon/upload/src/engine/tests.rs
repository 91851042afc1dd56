use std::{
    fs,
    fs::File,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::Path,
};

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    outbox::Identity,
    settings::{After, Compression, Credentials, HttpVersion, Verify},
    window::Windows,
};

struct Nothing;

impl Credentials for Nothing {
    fn tls(&self) -> Result<rustls::ClientConfig, String> {
        Err("no TLS here".to_owned())
    }

    fn authorization(&self) -> Result<Option<http::HeaderValue>, String> {
        Ok(None)
    }

    fn explain(&self, error: &rustls::Error) -> String {
        error.to_string()
    }
}

/// An engine whose loop nobody runs, and its outbox. There is no server: attempts end as tests say.
struct Stage {
    dir: TempDir,
    engine: Engine,
    events: mpsc::Receiver<Told>,
    _others: (watch::Sender<Arc<Settings>>, watch::Sender<bool>, watch::Receiver<UploadStatus>),
}

impl Stage {
    /// Within a runtime.
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let outbox = dir.path().join("outbox");
        fs::create_dir(&outbox).unwrap();
        let second = Duration::from_secs(1);
        let mut settings = Settings {
            gateway: "gw-7".to_owned(),
            outboxes: vec![outbox],
            state_dir: dir.path().join("state"),
            endpoint: Some("http://127.0.0.1:9/files".parse().unwrap()),
            protocol: Protocol::Tus,
            http: HttpVersion::Auto,
            part_size_bytes: 64 << 20,
            compression: Compression::None,
            rate_limit: None,
            windows: Windows::default(),
            concurrency: 1,
            metered: tidegate_values::Patterns::default(),
            splay: Duration::ZERO,
            settle: second,
            after: After::Remove,
            verify: Verify::No,
            proxy: None,
            connect_within: second,
            progress_within: second,
            total_within: second,
            credentials: Arc::new(Nothing),
        };
        change(&mut settings);
        let (settings, told) = watch::channel(Arc::new(settings));
        let (first, wanted) = watch::channel(false);
        let (status, shown) = watch::channel(UploadStatus::default());
        let (telling, events) = mpsc::channel(crate::event::EVENTS);
        let ports = Ports {
            settings: told,
            orders: mpsc::channel(1).1,
            asks: mpsc::channel(1).1,
            status,
            events: telling,
            first: wanted,
            shutdown: CancellationToken::new(),
        };
        let engine = Engine::new(ports, Backend::Threads);
        Self { dir, engine, events, _others: (settings, first, shown) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("outbox").join(name)
    }

    /// Puts a file there that has long been settled.
    fn put(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Looks at the outbox as the loop does.
    fn look(&mut self) {
        let settings = Arc::clone(&self.engine.settings);
        self.engine.intake.follow(&settings);
        self.engine.intake.refresh(&settings, Instant::now());
        while self.engine.intake.is_looking() {
            self.engine.intake.refresh(&settings, Instant::now());
        }
    }

    /// Takes the next file and has an attempt with it end so; its name.
    fn attempt(&mut self, result: Result<Arrived, Trouble>, progressed: bool) -> Option<String> {
        let (taken, job) = self.engine.next_job()?;
        Some(self.end(&taken, job, result, progressed))
    }

    /// Takes the next file, which is `name`, begins to send it, and has it changed while that is done.
    fn changed_while_sent(&mut self, name: &str, change: impl FnOnce(&Path)) {
        let (taken, mut job) = self.engine.next_job().unwrap();
        assert_eq!(job.name, name);
        if job.journal.is_none() {
            let journal = crate::journal::Journal::create(&job.journal_path, begin(&job), false).unwrap();
            job.journal = Some(journal);
        }
        change(&self.path(name));
        self.end(&taken, job, Err(trouble(Kind::Changed)), false);
    }

    fn end(&mut self, taken: &Taken, job: Job, result: Result<Arrived, Trouble>, progressed: bool) -> String {
        let leave = self.engine.breaker.attempt(Instant::now().into_std()).unwrap();
        let name = job.name.clone();
        self.engine.running.push(Running {
            key: taken.key,
            outbox: job.outbox.clone(),
            name: name.clone(),
            bytes: job.identity.size,
            priority: taken.priority,
            attempts: 1,
            last_error: None,
            progress: Rc::new(Progress::new()),
            stop: CancellationToken::new(),
            yields: Rc::default(),
            leave,
        });
        self.engine.ended(taken.key, job, Some(Ended { result, progressed }));
        while let Some(untold) = self.engine.untold.pop_front() {
            let (stored, _answer) = oneshot::channel();
            self.engine.ports.events.try_send(Told { event: untold.event.clone(), stored }).unwrap();
            self.engine.let_go(untold);
        }
        name
    }

    /// Looks once what is there has settled.
    async fn settles(&mut self) {
        settled().await;
        self.look();
    }

    /// Looks again, before anything has settled.
    async fn rests(&mut self) {
        rested().await;
        self.look();
    }

    fn told(&mut self) -> Vec<Outcome> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|told| told.event.state).collect()
    }
}

fn trouble(kind: Kind) -> Trouble {
    Trouble::new(kind, "as a test wants it")
}

/// Long enough to look again after a look, and not for a file to settle.
async fn rested() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Long enough for a file to settle.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn a_file_whose_end_is_always_wrong_is_put_aside_though_each_attempt_sends_all_of_it() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    stage.look();
    stage.settles().await;
    for _ in 0..2 {
        let before = Instant::now();
        assert_eq!(stage.attempt(Err(trouble(Kind::Corrupted)), true).as_deref(), Some("a"));
        assert!(stage.engine.not_before >= before);
    }
    stage.attempt(Err(trouble(Kind::Corrupted)), true);
    assert_eq!(stage.told(), [Outcome::Restarted, Outcome::Restarted, Outcome::Parked]);
    stage.look();
    assert_eq!(stage.attempt(Ok(Arrived::Whole), true), None);
}

#[tokio::test]
async fn what_a_server_asks_for_is_waited_out_whatever_becomes_of_other_files() {
    let mut stage = Stage::new(|settings| settings.concurrency = 4);
    for name in ["a", "b", "c", "d"] {
        stage.put(name, "content");
    }
    stage.look();
    stage.settles().await;
    let until = Instant::now() + Duration::from_mins(10);
    let busy = Trouble { retry_after: Some(Duration::from_mins(10)), status: 503, ..trouble(Kind::Unavailable) };
    stage.attempt(Err(busy), false);
    for kind in [Kind::Changed, Kind::EarlyClose, Kind::Metered] {
        stage.attempt(Err(trouble(kind)), true);
        assert!(stage.engine.not_before >= until, "{kind:?}");
    }
}

#[tokio::test]
async fn a_file_that_vanishes_says_nothing_about_the_endpoint() {
    let mut stage = Stage::new(|_| ());
    for name in ["a", "b"] {
        stage.put(name, "content");
    }
    stage.look();
    stage.settles().await;
    for _ in 1..crate::breaker::FAILURES {
        stage.attempt(Err(trouble(Kind::Connect)), false);
    }
    stage.attempt(Err(trouble(Kind::Vanished)), false);
    stage.attempt(Err(trouble(Kind::Connect)), false);
    assert!(stage.engine.breaker.is_broken());
}

#[tokio::test]
async fn many_files_that_are_refused_keep_no_other_from_its_turn_and_are_put_aside() {
    let mut stage = Stage::new(|_| ());
    let files = MOST_KEPT + 5;
    for index in 0..files {
        stage.put(&format!("a{index:03}"), "content");
    }
    stage.look();
    stage.settles().await;
    let refused = || Err(trouble(Kind::Refused));
    let mut names: Vec<String> = (0..files).map(|_| stage.attempt(refused(), false).unwrap()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), files, "each one once");
    for _ in 0..2 * files {
        assert!(stage.attempt(refused(), false).is_some());
        stage.told();
    }
    assert_eq!(stage.engine.counters.parked["refused"], files as u64);
    assert_eq!(stage.attempt(refused(), false), None);
}

#[tokio::test]
async fn a_file_that_cannot_be_taken_just_now_is_not_in_the_way() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    settled().await;
    stage.put("b", "content");
    stage.look();
    stage.settles().await;
    // After the look, so that this one still seems to be the best.
    fs::write(stage.path("a.meta.json"), "no sidecar").unwrap();
    assert_eq!(stage.attempt(Ok(Arrived::Whole), true).as_deref(), Some("b"));
    assert!(stage.path("a").exists() && !stage.path("b").exists());
}

/// How the upload of a file that holds `content` is begun.
fn begin(job: &Job) -> crate::journal::Begin {
    crate::journal::Begin {
        outbox: job.outbox.clone(),
        name: job.name.clone(),
        identity: job.identity,
        sha256: tidegate_values::Digest::of(b"content"),
        target: "tus http://127.0.0.1:9/files".to_owned(),
        coding: "identity".to_owned(),
        level: 0,
        codec_version: 0,
        frame_bytes: 262_144,
        length: Some(7),
    }
}

/// A journal of a file that has arrived.
fn arrived(stage: &Stage, name: &str) -> (Key, PathBuf, Job) {
    let path = stage.dir.path().join("state/0123456789abcdef.journal");
    let file = File::open(stage.path(name)).unwrap();
    let identity = Identity::of(file.as_fd()).unwrap();
    let outbox = stage.dir.path().join("outbox");
    let mut job =
        Job::new(outbox, name.to_owned(), identity, Box::new(move || Ok(file.try_clone().unwrap())), path.clone());
    let mut journal = crate::journal::Journal::create(&path, begin(&job), false).unwrap();
    journal.finished(false).unwrap();
    job.journal = Some(journal);
    (Key(7), path, job)
}

#[tokio::test]
async fn that_a_file_has_arrived_is_known_until_it_is_put_away() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    stage.look();
    let (key, path, job) = arrived(&stage, "a");
    // Its outbox is not there: another disk is to be mounted.
    let outbox = stage.dir.path().join("outbox");
    fs::rename(&outbox, stage.dir.path().join("elsewhere")).unwrap();
    stage.look();
    let event = Engine::event(&job, Outcome::Sent, None);
    stage.engine.let_go(Untold { key, job, event, then: Then::PutAway });
    assert!(path.exists(), "it would be sent again");

    fs::rename(stage.dir.path().join("elsewhere"), &outbox).unwrap();
    stage.look();
    let (key, path, job) = arrived(&stage, "a");
    let event = Engine::event(&job, Outcome::Sent, None);
    stage.engine.let_go(Untold { key, job, event, then: Then::PutAway });
    assert!(!path.exists() && !stage.path("a").exists());
}

#[tokio::test]
async fn what_an_earlier_run_took_aside_comes_back_though_nothing_is_told() {
    let mut stage = Stage::new(|_| ());
    let aside = stage.path(".tidegate-sent");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a"), "content").unwrap();
    stage.engine.step();
    assert!(stage.path("a").exists());
}

#[tokio::test]
async fn what_was_begun_is_not_given_up_because_it_cannot_be_opened_for_now() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    stage.look();
    let (key, path, mut job) = arrived(&stage, "a");
    job.open = Box::new(|| Err(trouble(Kind::Busy)));
    stage.engine.keep(key, job);
    stage.engine.look_after_what_was_begun();
    assert_eq!(stage.engine.kept.len(), 1);
    assert!(path.exists() && stage.engine.untold.is_empty());
}

#[tokio::test]
async fn what_has_left_the_outbox_makes_room_in_the_ledger() {
    let mut stage = Stage::new(|settings| settings.after = After::Keep);
    stage.engine.intake.sweeps_from = 2;
    for name in ["a", "b", "c"] {
        stage.put(name, "content");
    }
    stage.look();
    stage.settles().await;
    for _ in 0..3 {
        stage.attempt(Ok(Arrived::Whole), true).unwrap();
    }
    assert_eq!(stage.engine.intake.known_files(), 3);
    for name in ["a", "b"] {
        fs::remove_file(stage.path(name)).unwrap();
    }
    stage.settles().await;
    assert_eq!(stage.engine.intake.known_files(), 1);
    assert_eq!(stage.attempt(Ok(Arrived::Whole), true), None, "the one that is still there is not sent again");
}

#[tokio::test]
async fn what_could_not_be_opened_is_tried_again_after_a_change_of_settings() {
    let mut stage = Stage::new(|_| ());
    let journals = stage.dir.path().join("state");
    fs::write(&journals, "in the place of a folder").unwrap();
    stage.look();
    assert!(stage.engine.intake.blocked().is_some());
    fs::remove_file(&journals).unwrap();
    stage.look();
    assert_eq!(stage.engine.intake.blocked(), None);
}

#[tokio::test]
async fn after_a_look_that_took_long_nothing_is_looked_at_for_longer() {
    let mut stage = Stage::new(|_| ());
    stage.look();
    let settings = Arc::clone(&stage.engine.settings);
    stage.engine.intake.follow(&settings);
    let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(9));
    stage.engine.intake.rest_until(later);
    let (looked, again) = stage.engine.intake.refresh(&settings, now);
    assert!(!looked);
    assert_eq!(again, Some(later), "and then what has changed is seen");
    assert!(stage.engine.intake.refresh(&settings, later).0);
}

#[tokio::test]
async fn a_file_is_let_go_of_when_its_event_is_stored_and_told_again_where_it_is_not() {
    let mut told = VecDeque::new();
    let untold = || Untold {
        key: Key(1),
        job: Job::nobody(),
        event: Engine::event(&Job::nobody(), Outcome::Sent, None),
        then: Then::Nothing,
    };
    let (stored, answer) = oneshot::channel();
    told.push_back((untold(), answer));
    let short = Duration::from_millis(10);
    assert!(tokio::time::timeout(short, first_stored(&mut told)).await.is_err(), "nobody has said anything yet");
    stored.send(()).unwrap();
    assert!(first_stored(&mut told).await);
    told.clear();
    told.push_back((untold(), oneshot::channel().1));
    assert!(!first_stored(&mut told).await);
}

#[tokio::test]
async fn of_an_outbox_that_cannot_be_used_nothing_is_said_while_nothing_is_to_be_sent() {
    for outbox in ["/no/such/outbox", "/proc/version"] {
        let unusable = |settings: &mut Settings| settings.outboxes = vec![outbox.into()];
        let mut stage = Stage::new(|settings| {
            unusable(settings);
            settings.endpoint = None;
        });
        stage.look();
        assert_eq!(stage.engine.intake.unusable(), [], "{outbox}");
        let mut stage = Stage::new(unusable);
        stage.look();
        assert_eq!(stage.engine.intake.unusable().len(), 1, "{outbox}");
    }
}

fn append(path: &Path) {
    fs::write(path, [fs::read(path).unwrap(), b"more".to_vec()].concat()).unwrap();
}

/// Puts a file there that is changed each time it is sent, until it is not taken any more.
async fn changed_again_and_again() -> Stage {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    stage.look();
    for _ in 0..MOST_CHANGES {
        settled().await;
        stage.look();
        stage.changed_while_sent("a", append);
        rested().await;
        stage.look();
        assert_eq!(stage.engine.intake.parked().1[0].reason, "changed");
        assert!(stage.engine.next_job().is_none(), "not before it has settled");
    }
    assert_eq!(stage.told(), [Outcome::Parked, Outcome::Parked], "the first time, and when it is for good");
    append(&stage.path("a"));
    stage.settles().await;
    assert!(stage.engine.next_job().is_none());
    assert_eq!(stage.engine.intake.parked().0, 1);
    stage
}

#[tokio::test]
async fn a_file_that_is_changed_whenever_it_is_sent_waits_for_a_person() {
    let mut stage = changed_again_and_again().await;
    assert_eq!(stage.engine.intake.retry_parked(), 1);
    stage.rests().await;
    assert_eq!(stage.attempt(Ok(Arrived::Whole), true).as_deref(), Some("a"));
}

#[tokio::test]
async fn that_a_file_is_changed_whenever_it_is_sent_is_known_after_a_restart_and_of_no_other_file() {
    let mut stage = changed_again_and_again().await;
    stage.engine.intake = Intake::new(&stage.engine.settings);
    stage.settles().await;
    assert!(stage.engine.next_job().is_none());
    // Beside it first, so that it has another number.
    stage.put("b", "another one");
    fs::rename(stage.path("b"), stage.path("a")).unwrap();
    stage.rests().await;
    stage.settles().await;
    assert_eq!(stage.attempt(Ok(Arrived::Whole), true).as_deref(), Some("a"));
    assert_eq!(stage.engine.intake.known_files(), 0);
}

#[tokio::test]
async fn a_file_that_comes_when_one_that_was_changed_has_gone_is_another_one_though_it_has_its_number() {
    let mut stage = changed_again_and_again().await;
    fs::rename(stage.path("a"), stage.dir.path().join("gone")).unwrap();
    stage.rests().await;
    assert_eq!(stage.engine.intake.known_files(), 0);
    // As where its number is given to the next one that is written in place.
    fs::hard_link(stage.dir.path().join("gone"), stage.path("a")).unwrap();
    stage.rests().await;
    stage.settles().await;
    assert_eq!(stage.attempt(Ok(Arrived::Whole), true).as_deref(), Some("a"));
}

#[tokio::test]
async fn a_file_that_was_changed_before_it_was_begun_is_no_news() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    stage.look();
    stage.settles().await;
    append(&stage.path("a"));
    stage.attempt(Err(trouble(Kind::Changed)), false).unwrap();
    stage.rests().await;
    assert!(stage.told().is_empty() && stage.engine.next_job().is_none());
    stage.settles().await;
    assert_eq!(stage.attempt(Ok(Arrived::Whole), true).as_deref(), Some("a"));
}

#[tokio::test]
async fn a_file_that_was_touched_goes_on_where_its_content_is_the_same() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    stage.look();
    stage.settles().await;
    stage.changed_while_sent("a", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap());
    assert_eq!(stage.told(), []);
    stage.settles().await;
    let (_, mut job) = stage.engine.next_job().unwrap();
    assert!(job.journal.is_some());
    let progress = Progress::new();
    compare(&mut job, Backend::Threads, &progress).await.unwrap();
    assert_eq!(job.compared, Some(job.identity));

    // Its time is set to what it was.
    let modified = fs::metadata(stage.path("a")).unwrap().modified().unwrap();
    let file = File::options().write(true).open(stage.path("a")).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"C", 0).unwrap();
    file.set_modified(modified).unwrap();
    job.identity = Identity::of(file.as_fd()).unwrap();
    let differs = compare(&mut job, Backend::Threads, &progress).await.unwrap_err();
    assert_eq!(differs.kind.verdict(1), Verdict::Restart, "{differs}");
}

#[tokio::test]
async fn a_pause_holds_after_a_restart_until_it_is_ended() {
    let mut stage = Stage::new(|_| ());
    let start = |stage: &mut Stage| {
        let (settings, told) = watch::channel(Arc::clone(&stage.engine.settings));
        let ports = Ports {
            settings: told,
            orders: mpsc::channel(1).1,
            asks: mpsc::channel(1).1,
            status: watch::channel(UploadStatus::default()).0,
            events: mpsc::channel(1).0,
            first: watch::channel(false).1,
            shutdown: CancellationToken::new(),
        };
        stage.engine = Engine::new(ports, Backend::Threads);
        drop(settings);
        stage.engine.step();
        stage.engine.paused_until.is_some()
    };
    stage.engine.obey(Order::Pause(Duration::from_hours(1)));
    assert!(start(&mut stage));
    stage.engine.obey(Order::Resume);
    assert!(!start(&mut stage));
    // One that is over leaves nothing behind.
    stage.engine.obey(Order::Pause(Duration::from_millis(20)));
    tokio::time::sleep(Duration::from_millis(30)).await;
    stage.engine.step();
    assert!(!stage.dir.path().join("state/pause").exists());
    // One that cannot be read holds nothing up.
    fs::write(stage.dir.path().join("state/pause"), "?").unwrap();
    assert!(!start(&mut stage));
}

#[tokio::test]
async fn an_outbox_that_is_mounted_later_is_looked_through_for_what_an_earlier_run_left() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    fs::create_dir(stage.path(".tidegate-sent")).unwrap();
    fs::write(stage.path(".tidegate-sent/b"), "content").unwrap();
    fs::create_dir(stage.dir.path().join("state")).unwrap();
    let (_, path, job) = arrived(&stage, "a");
    drop(job);
    let outbox = stage.dir.path().join("outbox");
    fs::rename(&outbox, stage.dir.path().join("elsewhere")).unwrap();
    stage.engine.step();
    assert!(stage.engine.untold.is_empty() && path.exists());

    fs::rename(stage.dir.path().join("elsewhere"), &outbox).unwrap();
    stage.look();
    stage.engine.step();
    let untold = stage.engine.untold.pop_front().unwrap();
    assert_eq!((untold.event.name.as_str(), untold.event.state), ("a", Outcome::Sent));
    stage.engine.let_go(untold);
    assert!(!path.exists() && !stage.path("a").exists() && stage.path("b").exists());
}

#[tokio::test]
async fn a_file_that_was_begun_does_not_hold_the_folder_that_another_one_took_the_place_of() {
    let mut stage = Stage::new(|_| ());
    stage.put("a", "content");
    stage.look();
    stage.settles().await;
    let (taken, mut job) = stage.engine.next_job().unwrap();
    job.journal = Some(crate::journal::Journal::in_memory(begin(&job)));
    stage.engine.keep(taken.key, job);
    let (outbox, old) = (stage.dir.path().join("outbox"), stage.dir.path().join("unplugged"));
    let is_held = || {
        let held = fs::read_dir("/proc/self/fd").unwrap().map_while(Result::ok);
        held.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path.starts_with(&old))
    };
    fs::rename(&outbox, &old).unwrap();
    stage.look();
    assert!(!is_held());
    stage.engine.look_after_what_was_begun();
    assert_eq!(stage.engine.kept.len(), 1, "it is waited for");
    fs::rename(&old, &outbox).unwrap();
    stage.look();
    assert!(stage.engine.kept[0].1.is_there().is_ok());
}

#[tokio::test]
async fn all_files_that_could_not_be_removed_are_put_away_when_they_can_be() {
    let mut stage = Stage::new(|_| ());
    let files = 2 * 10 + 5;
    for index in 0..files {
        stage.put(&format!("a{index:03}"), "content");
    }
    stage.look();
    stage.settles().await;
    // In the place of our own folder.
    fs::write(stage.path(".tidegate-sent"), "").unwrap();
    while stage.attempt(Ok(Arrived::Whole), true).is_some() {
        stage.told();
    }
    stage.rests().await;
    assert_eq!(stage.engine.intake.parked().0, files);
    fs::remove_file(stage.path(".tidegate-sent")).unwrap();
    // Ten at a look, and it is looked again while there may be more.
    stage.look();
    let left = |stage: &Stage| fs::read_dir(stage.dir.path().join("outbox")).unwrap().count();
    for _ in 0..50 {
        rested().await;
        let settings = Arc::clone(&stage.engine.settings);
        stage.engine.intake.refresh(&settings, Instant::now());
        if left(&stage) == 1 {
            break;
        }
    }
    assert_eq!(left(&stage), 1, "our own folder");
}

/// An outbox with many files, at which a look has begun.
async fn looking(after: After) -> Stage {
    let mut stage = Stage::new(|settings| settings.after = after);
    for index in 0..5000 {
        stage.put(&format!("a{index:04}"), "content");
    }
    stage.look();
    stage.settles().await;
    stage.engine.intake.sweeps_from = 0;
    let settings = Arc::clone(&stage.engine.settings);
    stage.engine.intake.follow(&settings);
    let began = Instant::now();
    stage.engine.intake.rest_until(began);
    let (looked, again) = stage.engine.intake.refresh(&settings, began);
    assert!(!looked && stage.engine.intake.is_looking(), "not all at a time");
    assert_eq!(again, Some(began), "it goes on at once");
    stage
}

fn go_on(stage: &mut Stage) {
    let settings = Arc::clone(&stage.engine.settings);
    while stage.engine.intake.is_looking() {
        stage.engine.intake.refresh(&settings, Instant::now());
    }
}

#[tokio::test]
async fn a_look_at_many_files_is_made_of_steps_and_a_file_that_arrives_between_is_not_sent_again() {
    let mut stage = looking(After::Remove).await;
    let name = stage.attempt(Ok(Arrived::Whole), true).unwrap();
    go_on(&mut stage);
    assert_eq!(stage.engine.intake.waiting().0, 4999);
    for _ in 0..MOST_CANDIDATES - 1 {
        assert_ne!(stage.attempt(Ok(Arrived::Whole), true).unwrap(), name);
        stage.told();
    }
}

#[tokio::test]
async fn what_is_noted_while_a_look_is_under_way_is_not_swept_by_it() {
    let mut stage = looking(After::Keep).await;
    let name = stage.attempt(Ok(Arrived::Whole), true).unwrap();
    go_on(&mut stage);
    assert_eq!(stage.engine.intake.known_files(), 1, "{name}");
}
