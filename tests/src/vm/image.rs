//! What is booted: built once, kept below `target/vm` under a key of all that goes into it.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A kernel that gateways run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's: no TCX, links of tc programs cannot be pinned.
    Linux6_1,
    /// Debian 13's.
    Linux6_12,
}

impl Kernel {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
        }
    }
}

/// What goes into the images; a change of any makes new ones.
const INGREDIENTS: [&str; 6] = [
    include_str!("image.sh"),
    include_str!("guest/agent"),
    include_str!("guest/eth0.network"),
    include_str!("guest/init"),
    include_str!("guest/initrd-init"),
    include_str!("guest/vm-agent.service"),
];

/// The built images.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
}

impl Images {
    /// Folder of these images, in which what is made from them is kept, too.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Disk of the machine; never written to.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    /// Kernel and initial RAM disk.
    #[must_use]
    pub fn kernel(&self, kernel: Kernel) -> (PathBuf, PathBuf) {
        let name = kernel.name();
        (self.folder.join(format!("linux-{name}")), self.folder.join(format!("initrd-{name}")))
    }
}

/// The images; built by the first who asks, some four minutes, while others wait.
///
/// # Panics
///
/// Where they cannot be built, with what the builder said.
#[must_use]
pub fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        for text in INGREDIENTS {
            hasher.write(text.as_bytes());
        }
        let cache = cache();
        let folder = cache.join(format!("images-{:016x}", hasher.finish()));
        once(&folder, |unfinished| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/vm/image.sh");
            let built = Command::new("sh").arg(script).arg(unfinished).status();
            assert!(built.as_ref().is_ok_and(std::process::ExitStatus::success), "{script} failed: {built:?}");
        });
        Images { folder }
    })
}

/// Makes a folder once, whoever of several processes comes first; one that is not whole is never seen.
pub(super) fn once(folder: &Path, make: impl FnOnce(&Path)) {
    let name = folder.file_name().expect("a folder has a name").to_string_lossy().into_owned();
    let beside = |suffix: &str| folder.with_file_name(format!("{name}.{suffix}"));
    fs::create_dir_all(folder.parent().expect("a folder in the cache")).expect("the cache can be written");
    let lock = File::create(beside("lock")).expect("the cache can be written");
    lock.lock().expect("the cache's file system has locks");
    if folder.exists() {
        return;
    }
    let unfinished = beside("unfinished");
    let _none = fs::remove_dir_all(&unfinished);
    fs::create_dir(&unfinished).expect("the cache can be written");
    make(&unfinished);
    fs::rename(&unfinished, folder).expect("both are in the cache");
}

/// `TIDEGATE_VM`, or `target/vm`.
fn cache() -> PathBuf {
    std::env::var_os("TIDEGATE_VM")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm"), PathBuf::from)
}
