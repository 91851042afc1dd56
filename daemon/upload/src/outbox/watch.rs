//! Tells when it is worth to look at the outboxes again.
//!
//! # Constraints
//!
//! However much happens there, it is told at most once a second ([`AT_MOST_EVERY`]), and in bounded memory: what was
//! renamed in by name, up to [`MAX_RENAMED_IN`], for such a file is taken at once. Of all else a look tells more than
//! events do: they may be lost, and whoever writes there may make as many as they like. The kernel keeps 16,384 of them
//! for us, 8 MiB at the very worst (`fs.inotify.max_queued_events`). Files that are not finished yet
//! ([`names::is_left_alone`]) wake nobody.
//!
//! # Operation
//!
//! inotify (`inotify(7)`) on each folder that is there. A folder that is not there, or not any more, or another one by
//! now, is tried again every 30 s. Where the system gives no inotify, or too little of it, the folders are worth a look
//! every 10 s, and every 5 min in any case: of what others do on a file system over the network inotify does not know.

use std::{
    io,
    mem::{MaybeUninit, take},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    select,
    time::{Instant, sleep_until},
};

use super::{names, scan::MAX_RENAMED_IN};

/// Most that happens together is told together.
const GATHER: Duration = Duration::from_millis(50);
/// Between two times that something is told.
pub const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Folders that are not watched are tried again.
pub const RETRY_EVERY: Duration = Duration::from_secs(30);
/// Where there is no inotify.
pub const POLL_EVERY: Duration = Duration::from_secs(10);
/// Where there is.
pub const RESCAN_EVERY: Duration = Duration::from_mins(5);

/// Several events, each with a name of up to 256 bytes.
const BUFFER_BYTES: usize = 4096;
/// Events that are read at a time: four times what the kernel keeps for us (`fs.inotify.max_queued_events`).
const MAX_EVENTS: usize = 65_536;

/// Watches outboxes.
#[derive(Debug)]
pub struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
    folders: Vec<Watched>,
    /// Why folders are looked at every 10 s.
    polls_for: Option<Errno>,
    /// What was not told yet.
    changes: Changes,
    /// When it will be.
    due: Option<Instant>,
    told: Option<Instant>,
    retry: Instant,
    rescan: Instant,
}

/// What may have changed. More may have, wherever it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that were renamed in: the index of their folder, and their name.
    pub renamed_in: Vec<(usize, String)>,
    /// A folder came, went, or is another one: open all of them again.
    pub reopen: bool,
    /// Names were lost: files were renamed in that are not listed.
    pub lost: bool,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// Of inotify; `None` where it is not watched.
    descriptor: Option<i32>,
}

impl Watch {
    /// Begins to watch these. Within a runtime of tokio.
    #[must_use]
    pub fn new(paths: &[PathBuf]) -> Self {
        let mut watch = Self::idle(paths);
        watch.watch();
        // Whoever begins to watch looks at all of them first.
        watch.changes = Changes::default();
        watch
    }

    fn idle(paths: &[PathBuf]) -> Self {
        let now = Instant::now();
        Self {
            inotify: None,
            folders: paths.iter().map(|path| Watched { path: path.clone(), descriptor: None }).collect(),
            polls_for: None,
            changes: Changes::default(),
            due: None,
            told: None,
            retry: now + RETRY_EVERY,
            rescan: now + RESCAN_EVERY,
        }
    }

    /// Why the folders are only looked at every 10 s, and what to do about it.
    #[must_use]
    pub fn polls_for(&self) -> Option<String> {
        self.polls_for.map(|errno| {
            let hint = match errno {
                Errno::MFILE => " (raise fs.inotify.max_user_instances)",
                Errno::NOSPC => " (raise fs.inotify.max_user_watches)",
                _ => "",
            };
            format!("outboxes are looked at every {} s: inotify: {errno}{hint}", POLL_EVERY.as_secs())
        })
    }

    /// Waits until a look is worth it. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Changes {
        loop {
            if let Some(due) = self.due {
                sleep_until(due).await;
                self.due = None;
                if self.read_events() || self.changes.reopen || self.rescan <= due {
                    let now = Instant::now();
                    self.told = Some(now);
                    self.rescan = now + if self.polls_for.is_some() { POLL_EVERY } else { RESCAN_EVERY };
                    return take(&mut self.changes);
                }
            }
            let tick = self.retry.min(self.rescan);
            let now = select! {
                () = readable(self.inotify.as_ref()) => {
                    let gathered = Instant::now() + GATHER;
                    self.due = Some(self.told.map_or(gathered, |told| gathered.max(told + AT_MOST_EVERY)));
                    continue;
                }
                () = sleep_until(tick) => Instant::now(),
            };
            if self.retry <= now {
                self.watch();
                self.retry = now + RETRY_EVERY;
            }
            if self.rescan <= now || self.changes.reopen {
                self.due = Some(now);
            }
        }
    }

    /// Watches what is there and not watched yet, and no longer what is not there any more.
    fn watch(&mut self) {
        self.polls_for = None;
        if self.inotify.is_none() {
            match open() {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(error) => {
                    let errno = Errno::from_io_error(&error).unwrap_or(Errno::NOSYS);
                    self.poll(errno);
                    return;
                }
            }
        }
        let Some(inotify) = &self.inotify else { return };
        let flags = WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            // A link to a file from elsewhere is seen as this only.
            | WatchFlags::CREATE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        let mut limited = None;
        for at in 0..self.folders.len() {
            // One that is watched already keeps its descriptor; what was mounted or renamed over it has another one.
            let found = match inotify::add_watch(inotify.get_ref(), &self.folders[at].path, flags) {
                Ok(descriptor) => Some(descriptor),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => None,
                Err(errno) => {
                    limited = Some(errno);
                    None
                }
            };
            let before = self.folders[at].descriptor;
            if before == found {
                continue;
            }
            self.changes.reopen = true;
            self.folders[at].descriptor = found;
            if let Some(before) = before
                && self.folders.iter().all(|folder| folder.descriptor != Some(before))
            {
                let _gone_already = inotify::remove_watch(inotify.get_ref(), before);
            }
        }
        if let Some(errno) = limited {
            self.poll(errno);
        }
    }

    fn poll(&mut self, errno: Errno) {
        self.polls_for = Some(errno);
        self.rescan = self.rescan.min(Instant::now() + POLL_EVERY);
    }

    /// Takes in what happened; whether any of it is worth a look.
    fn read_events(&mut self) -> bool {
        let Self { inotify: Some(inotify), changes, folders, .. } = self else { return false };
        let mut news = News { changes, folders, worth: false, gone: false };
        let _read_or_nothing_there = inotify.try_io(Interest::READABLE, |inotify| {
            let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
            let mut events = Reader::new(inotify.as_fd(), &mut buffer);
            for _ in 0..MAX_EVENTS {
                match events.next() {
                    Ok(event) => news.take(&event),
                    Err(Errno::INTR) => {}
                    // "Would block": until there is more, it is not readable.
                    Err(errno) => return Err(errno.into()),
                }
            }
            Ok(())
        });
        let News { worth, gone, .. } = news;
        if gone {
            // Also where another one stands there already.
            self.changes.reopen = true;
            self.watch();
        }
        worth || self.changes.lost || !self.changes.renamed_in.is_empty()
    }
}

/// What events say.
struct News<'a> {
    changes: &'a mut Changes,
    folders: &'a [Watched],
    /// A look is.
    worth: bool,
    /// A folder is.
    gone: bool,
}

impl News<'_> {
    fn take(&mut self, event: &Event<'_>) {
        let what = event.events();
        self.changes.lost |= what.contains(ReadFlags::QUEUE_OVERFLOW);
        // One folder may be configured twice.
        for (index, _) in self.folders.iter().enumerate().filter(|(_, folder)| folder.descriptor == Some(event.wd())) {
            let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
            self.gone |= what.intersects(ends);
            let Some(name) = event.file_name().filter(|_| !what.contains(ReadFlags::ISDIR)) else { continue };
            let name = name.to_bytes();
            if names::is_left_alone(name) {
                // One that was mended may be what its file waits for.
                self.worth |= names::is_sidecar(name);
                continue;
            }
            self.worth = true;
            if let (true, Ok(name)) = (what.contains(ReadFlags::MOVED_TO), names::check(name)) {
                if self.changes.renamed_in.len() < MAX_RENAMED_IN {
                    self.changes.renamed_in.push((index, name.to_owned()));
                } else {
                    self.changes.lost = true;
                }
            }
        }
    }
}

/// When something happened; never, where nothing would tell.
async fn readable(inotify: Option<&AsyncFd<OwnedFd>>) {
    match inotify {
        // It fails where the runtime ends, and nothing happens any more.
        Some(inotify) => match inotify.readable().await {
            Ok(mut ready) => ready.retain_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    // SAFETY: the descriptor is owned, and neither replaced nor closed while it is registered.
    Ok(unsafe { AsyncFd::register(inotify) }?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        time::{Duration, Instant as Clock},
    };

    use tokio::time::{advance, timeout};

    use super::*;

    const NOTHING: Duration = Duration::from_millis(300);

    fn bench() -> (tempfile::TempDir, PathBuf, Watch) {
        let temp = tempfile::tempdir().unwrap();
        let outbox = temp.path().join("outbox");
        fs::create_dir(&outbox).unwrap();
        let watch = Watch::new(std::slice::from_ref(&outbox));
        (temp, outbox, watch)
    }

    fn rename_in(outbox: &Path, name: &str) {
        let unfinished = outbox.join(format!("{name}.part"));
        fs::write(&unfinished, "").unwrap();
        fs::rename(unfinished, outbox.join(name)).unwrap();
    }

    async fn changed(watch: &mut Watch) -> Option<Changes> {
        timeout(Duration::from_secs(5), watch.changed()).await.ok()
    }

    fn renamed_in(names: &[&str]) -> Changes {
        Changes { renamed_in: names.iter().map(|name| (0, (*name).to_owned())).collect(), ..Changes::default() }
    }

    #[tokio::test]
    async fn what_is_renamed_in_is_told_by_name_and_together() {
        let (_temp, outbox, mut watch) = bench();
        assert_eq!(watch.polls_for(), None);
        for name in ["a", "b", "c"] {
            rename_in(&outbox, name);
        }
        assert_eq!(changed(&mut watch).await, Some(renamed_in(&["a", "b", "c"])));
        let begin = Clock::now();
        rename_in(&outbox, "d");
        assert_eq!(changed(&mut watch).await, Some(renamed_in(&["d"])));
        assert!(begin.elapsed() > Duration::from_millis(800), "not more often than once a second");
    }

    #[tokio::test]
    async fn what_is_written_in_place_or_linked_in_is_worth_a_look_and_what_is_not_finished_is_not() {
        let (temp, outbox, mut watch) = bench();
        fs::write(outbox.join("a.part"), "").unwrap();
        fs::write(outbox.join(".b"), "").unwrap();
        fs::create_dir(outbox.join("sent")).unwrap();
        assert!(timeout(NOTHING, watch.changed()).await.is_err());
        fs::write(outbox.join("a"), "").unwrap();
        assert_eq!(changed(&mut watch).await, Some(Changes::default()));
        fs::write(temp.path().join("elsewhere"), "").unwrap();
        fs::hard_link(temp.path().join("elsewhere"), outbox.join("b")).unwrap();
        assert_eq!(changed(&mut watch).await, Some(Changes::default()));
        fs::write(outbox.join("a.meta.json"), "{}").unwrap();
        assert_eq!(changed(&mut watch).await, Some(Changes::default()));
        fs::remove_file(outbox.join("a")).unwrap();
        assert!(timeout(2 * AT_MOST_EVERY, watch.changed()).await.is_err(), "one file less is no work");
    }

    #[tokio::test]
    async fn cancelling_loses_nothing() {
        let (_temp, outbox, mut watch) = bench();
        let mut told = Vec::new();
        for name in ["a", "b", "c", "d"] {
            rename_in(&outbox, name);
            // Within the time that is gathered for, mostly.
            let changes = timeout(Duration::from_millis(5), watch.changed()).await.unwrap_or_default();
            told.extend(changes.renamed_in);
        }
        while told.len() < 4 {
            told.extend(changed(&mut watch).await.expect("names were lost").renamed_in);
        }
        assert_eq!(told, renamed_in(&["a", "b", "c", "d"]).renamed_in);
    }

    #[tokio::test]
    async fn more_names_than_are_kept_are_told_to_be_lost() {
        let (_temp, outbox, mut watch) = bench();
        for n in 0..MAX_RENAMED_IN + 10 {
            rename_in(&outbox, &n.to_string());
        }
        let changes = changed(&mut watch).await.unwrap();
        assert_eq!((changes.renamed_in.len(), changes.lost), (MAX_RENAMED_IN, true));
    }

    #[tokio::test]
    async fn a_folder_that_was_replaced_is_watched_again() {
        let (temp, outbox, mut watch) = bench();
        fs::rename(&outbox, temp.path().join("away")).unwrap();
        fs::create_dir(&outbox).unwrap();
        assert_eq!(changed(&mut watch).await, Some(Changes { reopen: true, ..Changes::default() }));
        rename_in(&temp.path().join("away"), "a");
        rename_in(&outbox, "b");
        assert_eq!(changed(&mut watch).await, Some(renamed_in(&["b"])));
        fs::remove_file(outbox.join("b")).unwrap();
        fs::remove_dir(&outbox).unwrap();
        assert_eq!(changed(&mut watch).await, Some(Changes { reopen: true, ..Changes::default() }));
        assert_eq!(watch.folders[0].descriptor, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_comes_later_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let outbox = temp.path().join("outbox");
        let mut watch = Watch::new(std::slice::from_ref(&outbox));
        assert_eq!(watch.polls_for(), None, "there is nothing to look at");
        advance(RETRY_EVERY + AT_MOST_EVERY).await;
        fs::create_dir(&outbox).unwrap();
        let begin = Instant::now();
        assert_eq!(watch.changed().await, Changes { reopen: true, ..Changes::default() });
        assert!(begin.elapsed() <= RETRY_EVERY);
        // Another one in its place, mounted over it perhaps: inotify says nothing about that.
        let before = watch.folders[0].descriptor.take();
        assert_eq!(watch.changed().await, Changes { reopen: true, ..Changes::default() });
        assert_eq!(watch.folders[0].descriptor, before);
    }

    #[tokio::test(start_paused = true)]
    async fn without_inotify_a_look_is_worth_it_every_ten_seconds_and_with_it_every_five_minutes() {
        let (_temp, outbox, mut watch) = bench();
        let begin = Instant::now();
        assert_eq!(watch.changed().await, Changes::default());
        assert_eq!(begin.elapsed(), RESCAN_EVERY);

        let mut watch = Watch::idle(&[outbox]);
        watch.poll(Errno::MFILE);
        let said = watch.polls_for().unwrap();
        assert!(said.starts_with("outboxes are looked at every 10 s: inotify: Too many open files"), "{said}");
        assert!(said.ends_with("(raise fs.inotify.max_user_instances)"), "{said}");
        let begin = Instant::now();
        for round in 1..3 {
            assert_eq!(watch.changed().await, Changes::default());
            assert_eq!(begin.elapsed(), round * POLL_EVERY);
        }
        // And then there was some.
        assert_eq!(watch.changed().await, Changes { reopen: true, ..Changes::default() });
        assert_eq!(watch.polls_for(), None);
    }

    #[tokio::test]
    async fn two_folders_are_told_apart_and_one_that_is_configured_twice_is_both() {
        let temp = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| temp.path().join(name));
        for path in &paths {
            fs::create_dir(path).unwrap();
        }
        let mut watch = Watch::new(&[paths[0].clone(), paths[1].clone(), paths[0].clone()]);
        rename_in(&paths[0], "x");
        rename_in(&paths[1], "y");
        let mut renamed_in = changed(&mut watch).await.unwrap().renamed_in;
        renamed_in.sort();
        assert_eq!(renamed_in, [(0, "x".to_owned()), (1, "y".to_owned()), (2, "x".to_owned())]);
    }
}
