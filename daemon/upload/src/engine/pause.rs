//! A pause that outlives the process: whoever ordered it does not know when the daemon is started again.
//!
//! `pause` in the folder of journals holds one JSON object:
//!
//! ```json
//! {"until_ms":1780272000000,"for_ms":7200000,"boot":"2b6d…","until_up_ms":86400000}
//! ```
//!
//! Within the boot that it was ordered in it ends by the clock that nobody sets (`until_up_ms`, since that boot). After another
//! boot only the wall clock is left (`until_ms`, since 1970), which may be wrong: then it lasts no longer than it was ordered for.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::order::MAX_PAUSE;

const NAME: &str = "pause";
/// What it holds is far below.
const MOST_BYTES: u64 = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    until_ms: u64,
    for_ms: u64,
    boot: String,
    until_up_ms: u64,
}

/// What tells how late it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clocks {
    wall_ms: u64,
    boot: String,
    up_ms: u64,
}

/// Keeps a pause that lasts so long from now on, in the place of one before. Blocks on the disk.
///
/// # Errors
///
/// The disk's: it ends with the process, and so does one before.
pub(super) fn keep(folder: &Path, time: Duration) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let bytes = serde_json::to_vec(&Written::of(time, &Clocks::now()))?;
    let (path, beside) = (folder.join(NAME), folder.join("pause.new"));
    let written = (|| {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if let Err(error) = written {
        let _gone = fs::remove_file(&beside);
        let _the_one_before = forget(folder);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// Forgets it: it is over, or uploads are to go on. Blocks on the disk.
///
/// # Errors
///
/// The disk's: after a start it may hold again.
pub(super) fn forget(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(NAME)) {
        Ok(()) => File::open(folder)?.sync_all(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// How long the pause that was kept still lasts, if it does. Blocks on the disk.
///
/// # Errors
///
/// What is there cannot be read, or is none.
pub(super) fn left(folder: &Path) -> io::Result<Option<Duration>> {
    let file = match File::open(folder.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let written: Written = serde_json::from_slice(&bytes)?;
    Ok(written.left(&Clocks::now()))
}

impl Clocks {
    fn now() -> Self {
        let up = clock_gettime(ClockId::Boottime);
        Self {
            wall_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
            up_ms: u64::try_from(up.tv_sec * 1000 + up.tv_nsec / 1_000_000).unwrap_or_default(),
        }
    }
}

impl Written {
    fn of(time: Duration, now: &Clocks) -> Self {
        let for_ms = ms(time);
        Self {
            until_ms: now.wall_ms.saturating_add(for_ms),
            for_ms,
            boot: now.boot.clone(),
            until_up_ms: now.up_ms.saturating_add(for_ms),
        }
    }

    fn left(&self, now: &Clocks) -> Option<Duration> {
        let same_boot = self.boot == now.boot && !now.boot.is_empty();
        let left = if same_boot {
            self.until_up_ms.saturating_sub(now.up_ms)
        } else {
            self.until_ms.saturating_sub(now.wall_ms)
        };
        let left = Duration::from_millis(left.min(self.for_ms)).min(MAX_PAUSE);
        (!left.is_zero()).then_some(left)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn clocks(wall_ms: u64, boot: &str, up_ms: u64) -> Clocks {
        Clocks { wall_ms, boot: boot.to_owned(), up_ms }
    }

    #[test]
    fn it_ends_by_the_clock_that_nobody_sets_and_after_another_boot_by_the_wall_s_and_never_lasts_longer() {
        let written = Written::of(HOUR, &clocks(50_000_000, "one", 1000));
        let left = |wall_ms, boot, up_ms| written.left(&clocks(wall_ms, boot, up_ms)).map(|left| left.as_secs());
        assert_eq!(left(0, "one", 1_801_000), Some(1800), "the wall clock was set");
        assert_eq!(left(50_000_000, "one", 3_601_000), None);
        assert_eq!(left(51_800_000, "two", 5), Some(1800));
        assert_eq!(left(53_600_000, "two", 5), None);
        assert_eq!(left(0, "two", 5), Some(3600), "the clock is not set yet");
        let endless = Written { for_ms: u64::MAX, until_ms: u64::MAX, ..written };
        assert_eq!(endless.left(&clocks(0, "two", 0)), Some(MAX_PAUSE));
    }

    #[test]
    fn what_was_kept_is_known_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("uploads");
        assert_eq!(left(&state).unwrap(), None);
        forget(&state).unwrap();
        keep(&state, HOUR * 2).unwrap();
        keep(&state, HOUR).unwrap();
        let still = left(&state).unwrap().unwrap();
        assert!(still <= HOUR && still > HOUR / 2, "{still:?}");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        forget(&state).unwrap();
        assert_eq!(left(&state).unwrap(), None);
    }

    #[test]
    fn one_that_cannot_be_kept_does_not_leave_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path(), HOUR * 2).unwrap();
        fs::create_dir(folder.path().join("pause.new")).unwrap();
        keep(folder.path(), HOUR).unwrap_err();
        assert_eq!(left(folder.path()).unwrap(), None);
    }

    #[test]
    fn what_is_no_pause_is_an_error_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"{}", b"{\"until_ms\":-1}", &vec![b'['; 1 << 20]] {
            fs::write(folder.path().join(NAME), content).unwrap();
            left(folder.path()).unwrap_err();
        }
    }
}
