//! Little memory, as the kernel's memory cgroup accounts for it: the page cache that a process fills is its own, too.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::Duration,
};

/// A memory cgroup, of either version; clones are the same one. It goes when the last is dropped, once its processes have.
#[derive(Clone, Debug)]
pub struct MemoryGroup(Arc<Group>);

#[derive(Debug)]
struct Group {
    folder: PathBuf,
    files: Files,
    /// Whether it goes with us.
    ours: bool,
}

/// Names of what is read.
#[derive(Clone, Copy, Debug)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    peak: &'static str,
    /// Key of `memory.stat`.
    cache: &'static str,
}

const FIRST: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    cache: "cache",
};
const SECOND: Files = Files { limit: "memory.max", usage: "memory.current", peak: "memory.peak", cache: "file" };

impl MemoryGroup {
    /// Makes one that holds at most so many bytes.
    ///
    /// # Errors
    ///
    /// None may be made here: a reason to skip.
    pub fn limited(bytes: u64) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-test-{}-{number}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, files) =
            if first.join(FIRST.limit).exists() { (first, FIRST) } else { (Path::new("/sys/fs/cgroup"), SECOND) };
        let folder = root.join(name);
        let why = |error| format!("needs a memory cgroup of its own in {}: {error}", folder.display());
        fs::create_dir(&folder).map_err(why)?;
        let group = Self(Arc::new(Group { folder: folder.clone(), files, ours: true }));
        fs::write(folder.join(files.limit), bytes.to_string()).map_err(why)?;
        Ok(group)
    }

    /// Puts this process into one that another made.
    ///
    /// # Panics
    ///
    /// Where it is not there.
    #[must_use]
    #[track_caller]
    pub fn enter(folder: PathBuf) -> Self {
        fs::write(folder.join(PROCESSES), "0").expect("enter the memory cgroup");
        let files = if folder.join(FIRST.limit).exists() { FIRST } else { SECOND };
        Self(Arc::new(Group { folder, files, ours: false }))
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Bytes that its processes have.
    #[must_use]
    pub fn usage(&self) -> u64 {
        self.read(self.0.files.usage)
    }

    /// The most that they ever had.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.read(self.0.files.peak)
    }

    /// Bytes of it that are page cache.
    #[must_use]
    pub fn cache(&self) -> u64 {
        let stat = fs::read_to_string(self.0.folder.join("memory.stat")).unwrap_or_default();
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == self.0.files.cache).and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }

    fn read(&self, file: &str) -> u64 {
        fs::read_to_string(self.0.folder.join(file)).map_or(0, |text| text.trim().parse().unwrap_or_default())
    }

    /// Makes `command` run in it.
    pub(crate) fn confine(&self, command: &mut Command) {
        let path = self.0.folder.join(PROCESSES);
        let processes = fs::OpenOptions::new().write(true).open(&path).expect("a cgroup has that file");
        // SAFETY: the closure makes one system call, which is async-signal-safe, on a descriptor that it owns.
        unsafe {
            command.pre_exec(move || Ok(rustix::io::write(&processes, b"0").map(drop)?));
        }
    }
}

/// The file of a cgroup that takes processes; `0` is the one that writes.
const PROCESSES: &str = "cgroup.procs";

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..50 {
            if !self.ours || fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}
