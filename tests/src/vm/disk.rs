//! A disk whose write cache is lost at a power cut.
//!
//! A killed emulator loses the machine's page cache, but what the machine had handed to its disk is in the host's
//! files. A real disk may lose that, too, up to the last flush. So qemu logs each write and flush of this disk
//! (`blklogwrites`, in the format of the kernel's dm-log-writes, Documentation/admin-guide/device-mapper/log-writes.rst),
//! and after a power cut the disk is what it was at the boot, plus every write before the last flush, plus some of
//! those after it, chosen at random: drives keep no order among them. One of them may be torn at a sector.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
    sync::Mutex,
};

use crate::Scratch;

const SECTOR: u64 = 512;
/// The disk's cache was flushed before this entry.
const FLUSH: u64 = 1;
/// This entry was on the disk's medium when it was answered.
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A disk of its own for a machine's state. It outlives its machines.
#[derive(Debug)]
pub struct StateDisk {
    folder: Scratch,
    /// Draws what a power cut leaves.
    dice: Mutex<fastrand::Rng>,
}

impl StateDisk {
    /// Makes one with an empty ext4 file system. The seed decides what power cuts leave of unflushed writes.
    ///
    /// # Panics
    ///
    /// Where there is no room for it.
    #[must_use]
    pub fn new(size_mib: u64, seed: u64) -> Self {
        let disk = Self { folder: Scratch::new("disk"), dice: Mutex::new(fastrand::Rng::with_seed(seed)) };
        let image = File::create(disk.image()).expect("the folder is ours");
        image.set_len(size_mib << 20).expect("a file may have holes");
        let formatted = Command::new("mkfs.ext4").arg("-q").arg(disk.image()).status();
        assert!(formatted.as_ref().is_ok_and(std::process::ExitStatus::success), "mkfs.ext4: {formatted:?}");
        disk
    }

    /// Before a boot: remembers the disk as it is and begins a new log.
    pub(super) fn attach(&self) -> [String; 2] {
        fs::copy(self.image(), self.before()).expect("room for a copy of the disk");
        File::create(self.log()).expect("the folder is ours");
        let device = "virtio-blk-pci,drive=state,write-cache=on".to_owned();
        let file = |path: PathBuf| format!("driver=file,filename={}", path.display());
        let nested = |name: &str, path| {
            file(path).split(',').map(|option| format!("{name}.{option}")).collect::<Vec<_>>().join(",")
        };
        let node = format!(
            "driver=blklogwrites,node-name=state,log-sector-size={SECTOR},{},{}",
            nested("file", self.image()),
            nested("log", self.log())
        );
        [node, device]
    }

    /// After a power cut: the disk as its medium is. Returns how many writes its cache lost, and how many it held.
    pub(super) fn lose_cache(&self) -> (usize, usize) {
        fs::rename(self.before(), self.image()).expect("both are ours");
        let image = File::options().write(true).open(self.image()).expect("the image is ours");
        let log = File::open(self.log()).expect("the log is ours");
        let writes = entries(&log);
        let flushed = writes.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |last| last + 1);
        let mut dice = self.dice.lock().expect("no holder panics");
        let mut lost = 0;
        for (number, entry) in writes.iter().enumerate() {
            let mut sectors = entry.sectors;
            if number >= flushed && entry.flags & FUA == 0 {
                sectors = match dice.u8(..4) {
                    0 | 1 => entry.sectors,
                    2 => dice.u64(..=entry.sectors),
                    _ => 0,
                };
                lost += usize::from(sectors < entry.sectors);
            }
            entry.apply(&log, &image, sectors);
        }
        (lost, writes.len() - flushed)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn before(&self) -> PathBuf {
        self.folder.path().join("before.img")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The image, for a look from outside while no machine has it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.image()
    }
}

/// One logged request.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data begins in the log.
    data: u64,
}

impl Entry {
    fn apply(&self, log: &File, image: &File, sectors: u64) {
        if sectors == 0 {
            return;
        }
        let mut data = vec![0; usize::try_from(sectors * SECTOR).expect("a request fits into memory")];
        // Discarded sectors read as zeros here; a discard has no data.
        if self.flags & DISCARD == 0 {
            log.read_exact_at(&mut data, self.data).expect("the log holds what its entry says");
        }
        image.write_all_at(&data, self.sector * SECTOR).expect("room for the disk");
    }
}

/// Entries of a log whose writer was killed: up to the first that is not there.
fn entries(log: &File) -> Vec<Entry> {
    let length = log.metadata().expect("an open file").len();
    let word = |at: u64| -> Option<u64> {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at).ok().map(|()| u64::from_le_bytes(bytes))
    };
    let mut entries = Vec::new();
    // Behind the superblock, which is written with the first flush and says nothing that the entries do not.
    let mut at = SECTOR;
    while let (Some(sector), Some(sectors), Some(flags)) = (word(at), word(at + 8), word(at + 16)) {
        let data = at + SECTOR;
        let data_length = if flags & DISCARD == 0 { sectors * SECTOR } else { 0 };
        let written = sectors != 0 || flags != 0;
        if !written || data + data_length > length {
            break;
        }
        entries.push(Entry { sector, sectors, flags, data });
        at = data + data_length;
    }
    entries
}
