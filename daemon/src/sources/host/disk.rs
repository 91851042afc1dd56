//! Disks: how full the file systems are that matter (statvfs(3)), and what the block devices did
//! (/proc/diskstats, Documentation/admin-guide/iostats.rst).

use std::path::Path;

use serde::Serialize;

use super::files::Files;

/// Block devices at most.
const MAX_DISKS: usize = 32;
/// The unit of /proc/diskstats, whatever the device's own is.
const SECTOR_BYTES: u64 = 512;

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// A folder on it.
    pub path: String,
    /// Its size.
    pub total_bytes: u64,
    /// What we may still write.
    pub available_bytes: u64,
    /// Files that may still be made; 0 where the file system does not count them.
    pub available_files: u64,
    /// Mounted read-only, as the kernel does after errors.
    pub read_only: bool,
}

/// A block device, since boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// `mmcblk0`
    pub name: String,
    /// Read from it.
    pub read_bytes: u64,
    /// Written to it: on eMMC and SD, what wears it out.
    pub written_bytes: u64,
    /// Reads that were finished.
    pub reads: u64,
    /// Writes that were finished.
    pub writes: u64,
    /// Milliseconds in which something was under way.
    pub busy_ms: u64,
}

/// How full the file system of a folder is; that of the nearest folder above where it does not exist yet.
pub(super) fn file_system(path: &Path) -> std::io::Result<FileSystem> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let found = rustix::fs::statvfs(existing)?;
    Ok(FileSystem {
        path: path.display().to_string(),
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        available_files: found.f_favail,
        read_only: found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    })
}

/// The whole disks that did something: no partitions, no loop and RAM devices.
pub(super) fn disks(files: &mut Files) -> std::io::Result<Vec<Disk>> {
    let mut disks: Vec<Disk> = files.read("proc/diskstats")?.lines().filter_map(disk).take(256).collect();
    disks.retain(|disk| files.has(format!("sys/block/{}", disk.name.replace('/', "!"))));
    disks.truncate(MAX_DISKS);
    Ok(disks)
}

/// `179 0 mmcblk0 5512 120 401234 3300 9001 800 700100 12000 0 9000 15300 …`
fn disk(line: &str) -> Option<Disk> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let name = fields.next()?;
    let mut counts = [0_u64; 10];
    for count in &mut counts {
        *count = fields.next()?.parse().ok()?;
    }
    let [reads, _, sectors_read, _, writes, _, sectors_written, _, _, busy_ms] = counts;
    let is_real = !["loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix));
    (is_real && reads + writes > 0).then(|| Disk {
        name: name.to_owned(),
        read_bytes: sectors_read.saturating_mul(SECTOR_BYTES),
        written_bytes: sectors_written.saturating_mul(SECTOR_BYTES),
        reads,
        writes,
        busy_ms,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::tree;
    use super::*;

    #[test]
    fn whole_disks_are_read_and_partitions_are_not() {
        let (_folder, mut files) = tree(&[
            (
                "proc/diskstats",
                "   7       0 loop0 78 0 516 5 99 111 25992 169 0 148 265 0 0 0 0 63 89\n \
                 179       0 mmcblk0 5512 120 401234 3300 9001 800 700100 12000 0 9000 15300 0 0 0 0 10 20\n \
                 179       1 mmcblk0p1 5000 120 400000 3300 9001 800 700100 12000 0 9000 15300 0 0 0 0 10 20\n   \
                   8       0 sda 0 0 0 0 0 0 0 0 0 0 0\n garbage\n",
            ),
            ("sys/block/mmcblk0/size", "1\n"),
            ("sys/block/loop0/size", "1\n"),
            ("sys/block/sda/size", "1\n"),
        ]);
        assert_eq!(
            disks(&mut files).unwrap(),
            [Disk {
                name: "mmcblk0".into(),
                read_bytes: 401_234 * 512,
                written_bytes: 700_100 * 512,
                reads: 5512,
                writes: 9001,
                busy_ms: 9000,
            }]
        );
    }

    #[test]
    fn a_folder_that_is_not_made_yet_stands_on_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("a/b");
        let found = file_system(&missing).unwrap();
        assert!(found.total_bytes > 0 && found.available_bytes <= found.total_bytes);
        assert_eq!(found.path, missing.display().to_string());
    }

    proptest! {
        #[test]
        fn hostile_text_is_not_read(line in "( ?[0-9a-z]{0,22}){0,16}|.{0,80}") {
            let _either = disk(&line);
        }
    }
}
