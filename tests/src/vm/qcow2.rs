//! Disks that take what is written and leave the one behind them as it is: empty images in QEMU's qcow2 format, version 2
//! (docs/interop/qcow2.txt in its sources), with a backing file.
//!
//! By hand, because `qemu-img` comes in a package of its own, which cannot be installed beside every emulator's.
//!
//! ```text
//!  cluster 0   header, format of the backing file, its path
//!          1   refcount table: one entry, the block below
//!          2   refcount block: one for each of these clusters
//!          3   L1 table: nothing is here yet, all is read from behind
//! ```
//!
//! All numbers are big-endian.

use std::{
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::Path,
};

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of a disk that one entry of the L1 table is for: a cluster of entries for a cluster each.
const BYTES_OF_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// Bytes of the header of version 2.
const HEADER: u64 = 72;
/// Where the disk's size stands in it.
const SIZE_AT: u64 = 24;
/// Type of the header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const CLUSTERS: u16 = 4;

/// Makes `disk`, behind which is the image `behind`: `.img` a plain one, else one of this kind.
pub(super) fn overlay(behind: &Path, disk: &Path) -> io::Result<()> {
    let behind = behind.canonicalize()?;
    let is_plain = behind.extension().is_some_and(|name| name == "img");
    let (format, size) = if is_plain { ("raw", fs::metadata(&behind)?.len()) } else { ("qcow2", size(&behind)?) };
    let path = behind.as_os_str().as_bytes();
    let length = u32::try_from(path.len()).map_err(io::Error::other)?;
    let l1_entries = u32::try_from(size.div_ceil(BYTES_OF_L1_ENTRY)).map_err(io::Error::other)?;
    let extension = [&BACKING_FORMAT.to_be_bytes()[..], &word(format.len())?, format.as_bytes()].concat();
    let path_at = HEADER + (extension.len() as u64).next_multiple_of(8) + 8;
    let mut header = Vec::new();
    header.extend(MAGIC.to_be_bytes());
    header.extend(2_u32.to_be_bytes());
    header.extend(path_at.to_be_bytes());
    header.extend(length.to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    // Not encrypted.
    header.extend(0_u32.to_be_bytes());
    header.extend(l1_entries.to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes());
    header.extend(CLUSTER.to_be_bytes());
    // Clusters of the refcount table; then the snapshots, of which there are none.
    header.extend(1_u32.to_be_bytes());
    header.extend(0_u32.to_be_bytes());
    header.extend(0_u64.to_be_bytes());
    header.extend(extension);
    let file = File::create(disk)?;
    file.set_len(u64::from(CLUSTERS) * CLUSTER)?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(path, path_at)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    file.write_all_at(&1_u16.to_be_bytes().repeat(CLUSTERS.into()), 2 * CLUSTER)
}

/// Bytes of the disk that an image of this kind is.
fn size(image: &Path) -> io::Result<u64> {
    let mut size = [0; 8];
    File::open(image)?.read_exact_at(&mut size, SIZE_AT)?;
    Ok(u64::from_be_bytes(size))
}

fn word(number: usize) -> io::Result<[u8; 4]> {
    u32::try_from(number).map(u32::to_be_bytes).map_err(io::Error::other)
}
