//! What is not to be tried again although it lies in an outbox: files that were sent and stay there, files that were
//! parked until a person has looked at them, and files that change each time they are sent.
//!
//! # Constraints
//!
//! - Killed or cut off at any moment, it holds every verdict whose [`Ledger::put`] returned, and of the one under way
//!   all or nothing.
//! - At most [`MAX_ENTRIES`] files, 16 bytes of memory each: 512 KiB. Full is an outcome.
//! - A record that rotted costs that one file another attempt, or, where it said to forget, brings back what was noted
//!   before; it costs its neighbours nothing. Nothing on disk makes it panic.
//!
//! # Which file
//!
//! A [`Key`] stands for the outbox, the name, the length and the time of the last change of the content, as `rsync`
//! tells files apart: a file that was kept is not sent again because its mode changed, or because its folder was
//! mounted anew and numbers its files otherwise. That a *parked* file changed in any other way (`ctime`: its mode, its
//! owner, another file of the same length and age) ends its parking, for that may be what it needed.
//!
//! A file that changes while it is sent has another length or time after that, and so another key. It is known by its
//! place ([`Salt::place`]): the outbox and the name, as long as the same file (`ino`) lies there.
//!
//! The hash is salted, with bytes that the file's owner only can read: nobody else can make a name that stands for
//! another's file.
//!
//! # Format
//!
//! A header and records of 32 bytes each. Numbers are little-endian.
//!
//! | offset | bytes | the header |
//! |---|---|---|
//! | 0 | 8 | magic `TIDEUPL\0` |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | zero |
//! | 12 | 4 | CRC32C of the header with this field zero |
//! | 16 | 16 | salt, random |
//!
//! | offset | bytes | a record |
//! |---|---|---|
//! | 0 | 4 | CRC32C of the record's offset in the file (8 bytes) and the 28 bytes behind this field, begun with the salt's |
//! | 4 | 1 | what: 1 kept, 2 stuck, 3 parked, 4 forgotten, 5 changed while it was sent |
//! | 5 | 1 | why it was parked ([`Reason`]), else 0 |
//! | 6 | 2 | status of HTTP that the server answered with, or 0; of a file that changed: how often |
//! | 8 | 8 | key: the first bytes of the SHA-256 of salt, path of the outbox, 0, name, 0, length (8), mtime in ns (8); of a file that changed, without the last two |
//! | 16 | 4 | of a parked file: CRC32C of its ctime in ns (8); of one that changed: CRC32C of its ino (8); else 0 |
//! | 20 | 12 | zero |
//!
//! A later record about a key replaces an earlier one. The offset is in the checksum, so that a record in another place
//! is none.
//!
//! # Operation
//!
//! A verdict is appended and synced. Where one record in two is dead, all that live are written beside, synced, and
//! renamed over it. What is behind the last whole record, or does not match its checksum, is skipped and counted.
//! Without a header nothing can be read: the file is put aside as `NAME.bad`.

use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use crc32c::{crc32c, crc32c_append};
use ring::rand::{SecureRandom as _, SystemRandom};
use tidegate_values::Digest;

use crate::outbox::Identity;

/// Most files.
pub const MAX_ENTRIES: usize = 32_768;

const MAGIC: [u8; 8] = *b"TIDEUPL\0";
const VERSION: u16 = 1;
/// Of the header and of a record.
const SLOT: usize = 32;
/// Dead records that are no reason to write all anew.
const SLACK: u64 = 256;
/// Records that are read, or written, at a time.
const CHUNK: usize = 1024;

/// What distinguishes this gateway's keys from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt([u8; 16]);

/// A file in an outbox, as the ledger knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// What is known about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was sent, and is to stay where it is.
    Kept,
    /// It was sent, and could not be removed or moved.
    Stuck,
    /// It waits for a person.
    Parked(Parking),
    /// It was changed so many times while it was sent. Only ever about a place.
    Changed(u16),
}

/// Why a file waits for a person. Its text is for that person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parking {
    /// Why.
    pub reason: Reason,
    /// The status of HTTP that the server answered with; 0 where it is not about an answer.
    pub status: u16,
}

/// Why a file is not sent. Names and numbers stay what they are: they are on disk and in what others count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The server knows who we are, and does not let us.
    Forbidden = 1,
    /// There is nothing at the endpoint that takes files.
    NotFound = 2,
    /// The server takes no file of that size.
    TooLarge = 3,
    /// It changes faster than it can be sent.
    Changed = 4,
    /// It is gone.
    Vanished = 5,
    /// The system does not let us read it.
    Unreadable = 6,
    /// Its sidecar or its name cannot be used.
    BadMetadata = 7,
    /// The server does not take it, for another reason.
    Refused = 8,
    /// The server claims what cannot be.
    LyingServer = 9,
    /// What arrived is not what was sent, again and again.
    Corrupted = 10,
}

const REASONS: [(Reason, &str); 10] = [
    (Reason::Forbidden, "forbidden"),
    (Reason::NotFound, "not-found"),
    (Reason::TooLarge, "too-large"),
    (Reason::Changed, "changed"),
    (Reason::Vanished, "vanished"),
    (Reason::Unreadable, "unreadable"),
    (Reason::BadMetadata, "bad-metadata"),
    (Reason::Refused, "refused"),
    (Reason::LyingServer, "lying-server"),
    (Reason::Corrupted, "corrupted"),
];

/// The ledger, open.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    salt: Salt,
    /// By key.
    entries: Vec<Entry>,
    /// Where the next record goes.
    end: u64,
    /// Fewer records are not written anew: it failed.
    not_below: u64,
    /// It was renamed into its place, and the folder is not synced since: after a power cut the one before may be there
    /// again.
    adrift: bool,
}

/// What was found where the ledger could not be read as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// It had no header that holds: it was put aside, and all is forgotten.
    pub put_aside: bool,
    /// Records that do not hold, one that was cut at the end included.
    pub rotten: u64,
    /// Records for which there was no room.
    pub too_many: u64,
}

/// A verdict was not noted. What was known before still is.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Too many files: see [`Ledger::is_full`].
    #[error("over 32768 files were sent and kept, or are parked: remove some from the outboxes")]
    Full,
    /// The disk's.
    #[error("the ledger of uploads cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// A record, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    key: Key,
    touched: u32,
    status: u16,
    what: u8,
    reason: u8,
}

const KEPT: u8 = 1;
const STUCK: u8 = 2;
const PARKED: u8 = 3;
const FORGOTTEN: u8 = 4;
const CHANGED: u8 = 5;

// What MAX_ENTRIES costs is in the header of this module.
const _: () = assert!(size_of::<Entry>() == 16);

impl Reason {
    /// For people and for counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        REASONS[usize::from(self as u8 - 1)].1
    }

    fn from_code(code: u8) -> Option<Self> {
        REASONS.get(usize::from(code).checked_sub(1)?).map(|(reason, _)| *reason)
    }
}

impl fmt::Display for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.name())?;
        if self.status == 0 { Ok(()) } else { write!(f, " (HTTP {})", self.status) }
    }
}

impl Verdict {
    /// Whether what was noted about a file is true of the file that is there now.
    #[must_use]
    pub fn is_about(self, noted: &Identity, now: &Identity) -> bool {
        match self {
            Self::Kept | Self::Stuck => true,
            Self::Parked(_) => noted.ctime_ns == now.ctime_ns,
            Self::Changed(_) => noted.ino == now.ino,
        }
    }
}

impl Salt {
    /// The key of a file.
    #[must_use]
    pub fn key(self, outbox: &Path, name: &str, file: &Identity) -> Key {
        let (size, mtime) = (file.size.to_le_bytes(), file.mtime_ns.to_le_bytes());
        self.hash(outbox, name, &[size, mtime].concat())
    }

    /// The key of whatever lies in that place.
    #[must_use]
    pub fn place(self, outbox: &Path, name: &str) -> Key {
        self.hash(outbox, name, &[])
    }

    fn hash(self, outbox: &Path, name: &str, rest: &[u8]) -> Key {
        // Neither a path nor a name holds a NUL.
        let Digest(hash) =
            Digest::of(&[&self.0[..], outbox.as_os_str().as_bytes(), &[0], name.as_bytes(), &[0], rest].concat());
        Key(u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]))
    }
}

impl Ledger {
    /// Opens it, or begins one where there is none. The folder must be there. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The disk's, or that the system has no random numbers.
    pub fn open(path: &Path) -> io::Result<(Self, Damage)> {
        let mut damage = Damage::default();
        match File::options().read(true).write(true).open(path) {
            Ok(mut file) => {
                let mut header = [0; SLOT];
                if read_full(&mut file, &mut header)? == SLOT
                    && let Some(salt) = decode_header(&header)
                {
                    let (entries, end) = read_records(&mut file, salt, &mut damage)?;
                    let path = path.to_owned();
                    return Ok((Self { path, file, salt, entries, end, not_below: 0, adrift: false }, damage));
                }
                fs::rename(path, path.with_added_extension("bad"))?;
                damage.put_aside = true;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut salt = [0; 16];
        SystemRandom::new().fill(&mut salt).map_err(|_| io::Error::other("the system has no random numbers"))?;
        let salt = Salt(salt);
        let (file, end) = write_whole(path, salt, &[])?;
        let path = path.to_owned();
        let mut this = Self { path, file, salt, entries: Vec::new(), end, not_below: 0, adrift: true };
        this.moor()?;
        Ok((this, damage))
    }

    /// What makes keys.
    #[must_use]
    pub const fn salt(&self) -> Salt {
        self.salt
    }

    /// What is known about a file: its key, and the file as it is now.
    #[must_use]
    pub fn find(&self, key: Key, file: &Identity) -> Option<Verdict> {
        let entry = self.entries[self.position(key).ok()?];
        (entry.touched == touched(entry.what, file)).then(|| entry.verdict())?
    }

    /// Where files lie that were changed while they were sent.
    #[must_use]
    pub fn places(&self) -> Vec<Key> {
        self.entries.iter().filter(|entry| entry.what == CHANGED).map(|entry| entry.key).collect()
    }

    /// Notes what became of a file, in the place of what was noted before. Blocks on the disk, to be synced.
    ///
    /// # Errors
    ///
    /// See [`LedgerError`].
    pub fn put(&mut self, key: Key, file: &Identity, verdict: Verdict) -> Result<(), LedgerError> {
        let entry = Entry::new(key, file, verdict);
        let position = self.position(key);
        match position {
            Ok(at) if self.entries[at] == entry => return Ok(()),
            Err(_) if self.is_full() => return Err(LedgerError::Full),
            _ => {}
        }
        self.append(entry)?;
        match position {
            Ok(at) => self.entries[at] = entry,
            Err(at) => self.entries.insert(at, entry),
        }
        self.compact_where_due();
        Ok(())
    }

    /// Forgets a file: it is tried again, where it is still there. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn forget(&mut self, key: Key) -> Result<(), LedgerError> {
        if let Ok(at) = self.position(key) {
            self.append(Entry { key, touched: 0, status: 0, what: FORGOTTEN, reason: 0 })?;
            self.entries.remove(at);
            self.compact_where_due();
        }
        Ok(())
    }

    /// Forgets all that were parked, and what changed: they are tried again. How many those were. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn retry_all(&mut self) -> Result<usize, LedgerError> {
        self.retain(&|entry| !matches!(entry.what, PARKED | CHANGED))
    }

    /// Forgets all that `lies` is not true of: files that are no longer in an outbox. How many those were. Only for
    /// after a look at all outboxes as a whole: what is forgotten here and turns up again is sent again. Blocks on the
    /// disk.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn sweep(&mut self, lies: &dyn Fn(Key) -> bool) -> Result<usize, LedgerError> {
        self.retain(&|entry| lies(entry.key))
    }

    /// Whether no other file can be noted before some are forgotten.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES
    }

    /// How many files are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, key: Key) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&key, |entry| entry.key)
    }

    /// Where it fails, the next record goes to the same place: over what there is of this one.
    fn append(&mut self, entry: Entry) -> io::Result<()> {
        self.moor()?;
        self.file.write_all_at(&entry.encode(self.end, self.salt), self.end)?;
        self.file.sync_data()?;
        self.end += SLOT as u64;
        Ok(())
    }

    fn retain(&mut self, stays: &dyn Fn(&Entry) -> bool) -> Result<usize, LedgerError> {
        let rest: Vec<Entry> = self.entries.iter().copied().filter(|entry| stays(entry)).collect();
        let gone = self.entries.len() - rest.len();
        if gone > 0 {
            let whole = write_whole(&self.path, self.salt, &rest)?;
            self.go_on_with(whole);
            self.entries = rest;
            self.moor()?;
        }
        Ok(gone)
    }

    fn go_on_with(&mut self, (file, end): (File, u64)) {
        (self.file, self.end) = (file, end);
        (self.not_below, self.adrift) = (0, true);
    }

    /// Sees to it that what is open is what is found after a power cut.
    fn moor(&mut self) -> io::Result<()> {
        if self.adrift {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            self.adrift = false;
        }
        Ok(())
    }

    /// The verdict is noted by now: that this fails is no failure of it.
    fn compact_where_due(&mut self) {
        let records = self.end / SLOT as u64 - 1;
        let due = records > (2 * self.entries.len() as u64 + SLACK).max(self.not_below);
        if due && write_whole(&self.path, self.salt, &self.entries).map(|whole| self.go_on_with(whole)).is_err() {
            // The disk is full, or worse. Not with each record from now on.
            self.not_below = records + CHUNK as u64;
        }
    }
}

impl Entry {
    fn new(key: Key, file: &Identity, verdict: Verdict) -> Self {
        let (what, reason, status) = match verdict {
            Verdict::Kept => (KEPT, 0, 0),
            Verdict::Stuck => (STUCK, 0, 0),
            Verdict::Parked(Parking { reason, status }) => (PARKED, reason as u8, status),
            Verdict::Changed(times) => (CHANGED, 0, times),
        };
        Self { key, touched: touched(what, file), status, what, reason }
    }

    /// None of what was forgotten, and of what no version wrote so far.
    fn verdict(self) -> Option<Verdict> {
        match self.what {
            KEPT => Some(Verdict::Kept),
            STUCK => Some(Verdict::Stuck),
            PARKED => {
                Reason::from_code(self.reason).map(|reason| Verdict::Parked(Parking { reason, status: self.status }))
            }
            CHANGED => Some(Verdict::Changed(self.status)),
            _ => None,
        }
    }

    fn encode(self, offset: u64, salt: Salt) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        (bytes[4], bytes[5]) = (self.what, self.reason);
        bytes[6..8].copy_from_slice(&self.status.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.key.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.touched.to_le_bytes());
        let crc = record_crc(&bytes, offset, salt);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT], offset: u64, salt: Salt) -> Option<Self> {
        let [c0, c1, c2, c3, what, reason, s0, s1, k0, k1, k2, k3, k4, k5, k6, k7, t0, t1, t2, t3, ..] = *bytes;
        let entry = Self {
            key: Key(u64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7])),
            touched: u32::from_le_bytes([t0, t1, t2, t3]),
            status: u16::from_le_bytes([s0, s1]),
            what,
            reason,
        };
        let holds = u32::from_le_bytes([c0, c1, c2, c3]) == record_crc(bytes, offset, salt);
        (holds && (what == FORGOTTEN || entry.verdict().is_some())).then_some(entry)
    }
}

/// What tells the file that a record of this kind is about from another one of the same key.
fn touched(what: u8, file: &Identity) -> u32 {
    match what {
        PARKED => crc32c(&file.ctime_ns.to_le_bytes()),
        CHANGED => crc32c(&file.ino.to_le_bytes()),
        _ => 0,
    }
}

fn record_crc(bytes: &[u8; SLOT], offset: u64, salt: Salt) -> u32 {
    crc32c_append(crc32c_append(crc32c(&salt.0), &offset.to_le_bytes()), &bytes[4..])
}

fn encode_header(salt: Salt) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..].copy_from_slice(&salt.0);
    let crc = crc32c(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_header(bytes: &[u8; SLOT]) -> Option<Salt> {
    let salt = Salt(bytes[16..].try_into().ok()?);
    (encode_header(salt) == *bytes).then_some(salt)
}

/// Reads until the buffer is full or the file ends; how much it was.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// All records behind the header: what lives, and where the next one goes.
fn read_records(file: &mut File, salt: Salt, damage: &mut Damage) -> io::Result<(Vec<Entry>, u64)> {
    let mut entries = Vec::new();
    let mut end = SLOT as u64;
    let mut chunk = vec![0; CHUNK * SLOT];
    loop {
        let filled = read_full(file, &mut chunk)?;
        let (slots, torn) = chunk[..filled].as_chunks::<SLOT>();
        for slot in slots {
            match Entry::decode(slot, end, salt) {
                Some(entry) => entries.push(entry),
                None => damage.rotten += 1,
            }
            end += SLOT as u64;
        }
        damage.rotten += u64::from(!torn.is_empty());
        // However long the file is: no more than twice what may live, and a chunk.
        if entries.len() > 2 * MAX_ENTRIES || filled < chunk.len() {
            damage.too_many += settle(&mut entries);
        }
        if filled < chunk.len() {
            entries.shrink_to_fit();
            return Ok((entries, end));
        }
    }
}

/// Sorts by key, and leaves the last record about each, where it was not forgotten. How many were too many.
fn settle(entries: &mut Vec<Entry>) -> u64 {
    // Stable: of equal keys, the order of the file stays.
    entries.sort_by_key(|entry| entry.key);
    // `dedup` leaves the first of each: it is given what the later ones say.
    entries.dedup_by(|later, first| {
        let same = later.key == first.key;
        if same {
            *first = *later;
        }
        same
    });
    entries.retain(|entry| entry.what != FORGOTTEN);
    let too_many = entries.len().saturating_sub(MAX_ENTRIES);
    entries.truncate(MAX_ENTRIES);
    too_many as u64
}

/// Writes it as a whole, in the place of what there is; the open file, and where the next record goes. The folder is
/// not synced.
fn write_whole(path: &Path, salt: Salt, entries: &[Entry]) -> io::Result<(File, u64)> {
    let beside = path.with_added_extension("new");
    let written = (|| {
        let mut file = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&encode_header(salt))?;
        let mut end = SLOT as u64;
        for chunk in entries.chunks(CHUNK) {
            let mut bytes = Vec::with_capacity(chunk.len() * SLOT);
            for entry in chunk {
                bytes.extend(entry.encode(end, salt));
                end += SLOT as u64;
            }
            file.write_all(&bytes)?;
        }
        file.sync_all()?;
        fs::rename(&beside, path)?;
        Ok((file, end))
    })();
    if written.is_err() {
        // On a full disk half a file is room that somebody needs.
        let _gone = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const FILE: Identity = Identity { dev: 1, ino: 2, size: 3, mtime_ns: 4, ctime_ns: 5 };

    const fn parked(reason: Reason, status: u16) -> Verdict {
        Verdict::Parked(Parking { reason, status })
    }

    /// In memory where that can be had: thousands of syncs wear a disk, and show nothing.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    fn opened() -> (tempfile::TempDir, Ledger) {
        let temp = folder();
        let (ledger, damage) = Ledger::open(&temp.path().join("ledger")).unwrap();
        assert_eq!(damage, Damage::default());
        (temp, ledger)
    }

    fn reopened(ledger: Ledger) -> (Ledger, Damage) {
        let path = ledger.path.clone();
        drop(ledger);
        Ledger::open(&path).unwrap()
    }

    /// A ledger of these bytes.
    fn of(bytes: &[u8]) -> (tempfile::TempDir, Ledger, Damage) {
        let temp = folder();
        let path = temp.path().join("ledger");
        fs::write(&path, bytes).unwrap();
        let (ledger, damage) = Ledger::open(&path).unwrap();
        (temp, ledger, damage)
    }

    fn records(ledger: &Ledger) -> usize {
        usize::try_from(fs::metadata(&ledger.path).unwrap().len()).unwrap() / SLOT - 1
    }

    #[test]
    fn the_format_is_the_one_that_the_header_of_this_module_describes() {
        let salt = Salt(*b"0123456789abcdef");
        let header = encode_header(salt);
        #[rustfmt::skip]
        assert_eq!(header, [
            b'T', b'I', b'D', b'E', b'U', b'P', b'L', 0,
            1, 0, 0, 0, 0xee, 0xc7, 0x44, 0x00,
            b'0', b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8', b'9', b'a', b'b', b'c', b'd', b'e', b'f',
        ]);
        let key = salt.key(Path::new("/srv/out"), "a.csv", &FILE);
        assert_eq!(key, Key(0xd344_2031_5137_e87d));
        let entry = Entry::new(Key(0x0807_0605_0403_0201), &FILE, parked(Reason::Refused, 415));
        #[rustfmt::skip]
        assert_eq!(entry.encode(32, salt), [
            0x8d, 0xb6, 0xd1, 0x23, 3, 8, 0x9f, 0x01,
            1, 2, 3, 4, 5, 6, 7, 8,
            0xc0, 0x4d, 0x09, 0xe4, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
        ]);
    }

    #[test]
    fn numbers_and_names_of_reasons_belong_together() {
        for (index, (reason, name)) in REASONS.into_iter().enumerate() {
            assert_eq!(usize::from(reason as u8), index + 1);
            assert_eq!((reason.name(), Reason::from_code(reason as u8)), (name, Some(reason)));
        }
        assert_eq!((Reason::from_code(0), Reason::from_code(11)), (None, None));
        assert_eq!(Parking { reason: Reason::TooLarge, status: 413 }.to_string(), "too-large (HTTP 413)");
        assert_eq!(Parking { reason: Reason::Vanished, status: 0 }.to_string(), "vanished");
    }

    #[test]
    fn what_was_noted_is_known_after_a_restart() {
        let (_temp, mut ledger) = opened();
        let verdicts = [Verdict::Kept, Verdict::Stuck, parked(Reason::Refused, 415), parked(Reason::Corrupted, 0)];
        for (key, verdict) in (0..).map(Key).zip(verdicts) {
            assert_eq!(ledger.find(key, &FILE), None);
            ledger.put(key, &FILE, verdict).unwrap();
        }
        ledger.put(Key(9), &FILE, Verdict::Kept).unwrap();
        ledger.put(Key(9), &FILE, Verdict::Stuck).unwrap();
        ledger.put(Key(10), &FILE, Verdict::Kept).unwrap();
        ledger.forget(Key(10)).unwrap();
        ledger.forget(Key(11)).unwrap();
        let (ledger, damage) = reopened(ledger);
        assert_eq!(damage, Damage::default());
        for (key, verdict) in (0..).map(Key).zip(verdicts) {
            assert_eq!(ledger.find(key, &FILE), Some(verdict));
        }
        assert_eq!(ledger.find(Key(9), &FILE), Some(Verdict::Stuck));
        assert_eq!((ledger.find(Key(10), &FILE), ledger.len()), (None, 5));
    }

    #[test]
    fn a_parked_file_that_changed_in_any_way_is_tried_again_and_a_kept_one_is_not() {
        let (_temp, mut ledger) = opened();
        let touched = Identity { ctime_ns: 6, ..FILE };
        ledger.put(Key(1), &FILE, Verdict::Kept).unwrap();
        ledger.put(Key(2), &FILE, parked(Reason::Unreadable, 0)).unwrap();
        let (ledger, _) = reopened(ledger);
        assert_eq!(ledger.find(Key(1), &touched), Some(Verdict::Kept));
        assert_eq!(ledger.find(Key(2), &FILE), Some(parked(Reason::Unreadable, 0)));
        assert_eq!(ledger.find(Key(2), &touched), None);
    }

    #[test]
    fn a_file_that_changed_is_known_by_its_place_as_long_as_it_is_that_file() {
        let (_temp, mut ledger) = opened();
        let place = ledger.salt().place(Path::new("/srv/out"), "a");
        assert_eq!(ledger.places(), []);
        ledger.put(place, &FILE, Verdict::Changed(1)).unwrap();
        ledger.put(place, &FILE, Verdict::Changed(2)).unwrap();
        let (mut ledger, damage) = reopened(ledger);
        assert_eq!((damage, ledger.places(), ledger.len()), (Damage::default(), vec![place], 1));
        let longer = Identity { size: 9, mtime_ns: 9, ctime_ns: 9, ..FILE };
        assert_eq!(ledger.find(place, &longer), Some(Verdict::Changed(2)));
        assert_eq!(ledger.find(place, &Identity { ino: 9, ..FILE }), None);
        assert_ne!(ledger.salt().place(Path::new("/srv/out"), "b"), place);
        assert_eq!(ledger.retry_all().unwrap(), 1);
        assert_eq!(ledger.find(place, &FILE), None);
    }

    #[test]
    fn a_key_stands_for_place_name_length_and_time_and_for_this_gateway_s_salt() {
        let salt = Salt([7; 16]);
        let key = |outbox: &str, name: &str, file: Identity| salt.key(Path::new(outbox), name, &file);
        let one = key("/a", "b", FILE);
        assert_eq!(
            one,
            key("/a", "b", Identity { dev: 9, ino: 9, ctime_ns: 9, ..FILE }),
            "mounted anew, and with another mode"
        );
        assert_ne!(one, key("/a", "c", FILE));
        assert_ne!(one, key("/c", "b", FILE));
        assert_ne!(key("/a", "bc", FILE), key("/ab", "c", FILE));
        assert_ne!(one, key("/a", "b", Identity { size: 9, ..FILE }));
        assert_ne!(one, key("/a", "b", Identity { mtime_ns: 9, ..FILE }));
        assert_ne!(one, Salt([8; 16]).key(Path::new("/a"), "b", &FILE));
    }

    #[test]
    fn the_salt_stays_and_is_another_one_for_another_ledger() {
        let ((_one, first), (_other, second)) = (opened(), opened());
        assert_ne!(first.salt(), second.salt());
        let salt = first.salt();
        assert_eq!(reopened(first).0.salt(), salt);
    }

    #[test]
    fn only_its_owner_may_read_it() {
        let (_temp, ledger) = opened();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&ledger.path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn full_is_an_outcome_and_what_is_known_may_still_change() {
        let (_temp, mut ledger) = opened();
        let entries =
            (0..MAX_ENTRIES as u64 - 1).map(|key| Entry::new(Key(key), &FILE, Verdict::Kept)).collect::<Vec<_>>();
        let whole = write_whole(&ledger.path, ledger.salt, &entries).unwrap();
        ledger.go_on_with(whole);
        ledger.entries = entries;
        ledger.put(Key(1 << 40), &FILE, parked(Reason::Refused, 400)).unwrap();
        assert!(ledger.is_full());
        assert!(matches!(ledger.put(Key(1 << 41), &FILE, Verdict::Kept), Err(LedgerError::Full)));
        ledger.put(Key(5), &FILE, Verdict::Stuck).unwrap();

        let (mut ledger, damage) = reopened(ledger);
        assert_eq!((damage, ledger.len()), (Damage::default(), MAX_ENTRIES));
        assert_eq!(ledger.find(Key(5), &FILE), Some(Verdict::Stuck));
        ledger.forget(Key(6)).unwrap();
        ledger.put(Key(1 << 41), &FILE, Verdict::Kept).unwrap();
        assert_eq!(ledger.sweep(&|key| key == Key(1 << 41)).unwrap(), MAX_ENTRIES - 1);
        assert_eq!(reopened(ledger).0.find(Key(1 << 41), &FILE), Some(Verdict::Kept));
    }

    #[test]
    fn more_than_may_live_is_counted_and_left_out() {
        let salt = Salt([1; 16]);
        let mut bytes = encode_header(salt).to_vec();
        for key in 0..3 * MAX_ENTRIES as u64 {
            bytes.extend(Entry::new(Key(key), &FILE, Verdict::Kept).encode(bytes.len() as u64, salt));
        }
        let (_temp, ledger, damage) = of(&bytes);
        assert_eq!((ledger.len() as u64, damage.too_many), (MAX_ENTRIES as u64, 2 * MAX_ENTRIES as u64));
    }

    #[test]
    fn parked_files_are_all_tried_again_and_others_are_not() {
        let (_temp, mut ledger) = opened();
        for (key, verdict) in [
            (1, Verdict::Kept),
            (2, parked(Reason::Refused, 400)),
            (3, Verdict::Stuck),
            (4, parked(Reason::Changed, 0)),
        ] {
            ledger.put(Key(key), &FILE, verdict).unwrap();
        }
        assert_eq!(ledger.retry_all().unwrap(), 2);
        assert_eq!(ledger.retry_all().unwrap(), 0);
        let (ledger, _) = reopened(ledger);
        assert_eq!(ledger.find(Key(2), &FILE), None);
        assert_eq!((ledger.find(Key(3), &FILE), ledger.len()), (Some(Verdict::Stuck), 2));
    }

    #[test]
    fn dead_records_are_left_behind() {
        let (_temp, mut ledger) = opened();
        for round in 0..2000 {
            ledger.put(Key(round % 3), &FILE, parked(Reason::Refused, u16::try_from(round % 1000).unwrap())).unwrap();
            assert!(records(&ledger) as u64 <= 2 * 3 + SLACK + 1);
        }
        let (ledger, damage) = reopened(ledger);
        assert_eq!((damage, ledger.len()), (Damage::default(), 3));
        assert_eq!(ledger.find(Key(1), &FILE), Some(parked(Reason::Refused, 999)));
    }

    #[test]
    fn a_verdict_that_could_not_be_written_does_not_count_and_the_next_one_takes_its_place() {
        let (_temp, mut ledger) = opened();
        ledger.put(Key(1), &FILE, Verdict::Kept).unwrap();
        let writable = std::mem::replace(&mut ledger.file, File::open(&ledger.path).unwrap());
        assert!(matches!(ledger.put(Key(2), &FILE, Verdict::Kept), Err(LedgerError::Io(_))));
        assert!(ledger.forget(Key(1)).is_err());
        assert_eq!((ledger.find(Key(2), &FILE), ledger.find(Key(1), &FILE)), (None, Some(Verdict::Kept)));
        // Some of it may have been written.
        writable.write_all_at(b"torn", ledger.end).unwrap();
        ledger.file = writable;
        ledger.put(Key(3), &FILE, Verdict::Kept).unwrap();
        let (ledger, damage) = reopened(ledger);
        assert_eq!((damage, ledger.len()), (Damage::default(), 2));
    }

    #[test]
    fn where_it_cannot_be_written_anew_it_goes_on_and_tries_less_often() {
        let (temp, mut ledger) = opened();
        // Nothing can be written where a folder stands.
        fs::create_dir(temp.path().join("ledger.new")).unwrap();
        for round in 0..600 {
            ledger.put(Key(1), &FILE, parked(Reason::Refused, round)).unwrap();
        }
        assert_eq!((records(&ledger), ledger.not_below > 600), (600, true));
        assert!(ledger.retry_all().is_err());
        assert!(ledger.find(Key(1), &FILE).is_some());
        fs::remove_dir(temp.path().join("ledger.new")).unwrap();
        for round in 0..1000 {
            ledger.put(Key(1), &FILE, parked(Reason::Refused, round)).unwrap();
        }
        assert!(records(&ledger) < 600);
        assert_eq!(reopened(ledger).0.find(Key(1), &FILE), Some(parked(Reason::Refused, 999)));
    }

    #[test]
    fn without_a_header_it_is_put_aside_and_begins_anew() {
        let salt = Salt([1; 16]);
        for bit in 0..SLOT * 8 {
            let mut bytes = encode_header(salt);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (temp, ledger, damage) = of(&bytes);
            assert_eq!((damage.put_aside, ledger.len()), (true, 0), "bit {bit}");
            assert_eq!(fs::read(temp.path().join("ledger.bad")).unwrap(), bytes);
        }
        let (_temp, _ledger, damage) = of(&encode_header(salt)[..31]);
        assert!(damage.put_aside);
    }

    #[test]
    fn a_record_holds_only_in_its_place_and_ledger() {
        let salt = Salt([1; 16]);
        let bytes = Entry::new(Key(1), &FILE, Verdict::Kept).encode(64, salt);
        assert!(Entry::decode(&bytes, 64, salt).is_some());
        assert_eq!(Entry::decode(&bytes, 96, salt), None);
        assert_eq!(Entry::decode(&bytes, 64, Salt([2; 16])), None);
        // What another version wrote.
        let unknown = Entry { what: 6, ..Entry::new(Key(1), &FILE, Verdict::Kept) };
        assert_eq!(Entry::decode(&unknown.encode(64, salt), 64, salt), None);
        let unknown = Entry { reason: 99, ..Entry::new(Key(1), &FILE, parked(Reason::Refused, 0)) };
        assert_eq!(Entry::decode(&unknown.encode(64, salt), 64, salt), None);
    }

    /// What may be done to a ledger: which key, and the verdict, or none to forget it.
    fn deeds() -> impl Strategy<Value = Vec<(u64, Option<u16>)>> {
        prop::collection::vec((0_u64..8, prop::option::weighted(0.8, 400_u16..500)), 0..40)
    }

    fn record(deed: (u64, Option<u16>), at: usize, salt: Salt) -> [u8; SLOT] {
        let (key, status) = deed;
        let entry = status
            .map_or(Entry { key: Key(key), touched: 0, status: 0, what: FORGOTTEN, reason: 0 }, |status| {
                Entry::new(Key(key), &FILE, parked(Reason::Refused, status))
            });
        entry.encode(((at + 1) * SLOT) as u64, salt)
    }

    /// What a ledger must know after those deeds.
    fn known<'a>(deeds: impl Iterator<Item = &'a (u64, Option<u16>)>) -> BTreeMap<u64, u16> {
        let mut known = BTreeMap::new();
        for (key, status) in deeds {
            match status {
                Some(status) => known.insert(*key, *status),
                None => known.remove(key),
            };
        }
        known
    }

    fn holds(ledger: &Ledger, known: &BTreeMap<u64, u16>) -> bool {
        let found = |key| ledger.find(Key(key), &FILE);
        ledger.len() == known.len()
            && (0..8).all(|key| found(key) == known.get(&key).map(|status| parked(Reason::Refused, *status)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_make_it_panic_and_it_goes_on_from_any(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            with_header: bool,
        ) {
            if with_header {
                bytes.splice(..0, encode_header(Salt([1; 16])));
            }
            let (_temp, mut ledger, damage) = of(&bytes);
            prop_assert_eq!(damage.put_aside, !with_header);
            ledger.put(Key(1), &FILE, Verdict::Kept).unwrap();
            let (ledger, again) = reopened(ledger);
            prop_assert_eq!(ledger.find(Key(1), &FILE), Some(Verdict::Kept));
            prop_assert!(!again.put_aside && again.rotten <= damage.rotten);
        }

        #[test]
        fn cut_anywhere_it_knows_what_was_whole_by_then(
            deeds in deeds(),
            cut: prop::sample::Index,
            later in 500_u16..600,
        ) {
            let salt = Salt([1; 16]);
            let mut bytes = encode_header(salt).to_vec();
            for (at, deed) in deeds.iter().enumerate() {
                bytes.extend(record(*deed, at, salt));
            }
            let length = SLOT + cut.index(bytes.len() - SLOT + 1);
            let (_temp, mut ledger, damage) = of(&bytes[..length]);
            let mut known = known(deeds[..length / SLOT - 1].iter());
            prop_assert!(holds(&ledger, &known));
            prop_assert_eq!(damage.rotten, u64::from(!length.is_multiple_of(SLOT)));
            // And what is noted behind the cut is found as well.
            ledger.put(Key(3), &FILE, parked(Reason::Refused, later)).unwrap();
            known.insert(3, later);
            let (ledger, damage) = reopened(ledger);
            prop_assert_eq!(damage, Damage::default());
            prop_assert!(holds(&ledger, &known));
        }

        #[test]
        fn what_rotted_costs_itself_and_none_of_its_neighbours(
            deeds in deeds(),
            rot in prop::collection::btree_map(0_usize..40, (0_usize..SLOT, 1_u8..), 0..6),
        ) {
            let salt = Salt([1; 16]);
            let mut bytes = encode_header(salt).to_vec();
            for (at, deed) in deeds.iter().enumerate() {
                let mut record = record(*deed, at, salt);
                if let Some((byte, flip)) = rot.get(&at) {
                    record[*byte] ^= flip;
                }
                bytes.extend(record);
            }
            let (_temp, ledger, damage) = of(&bytes);
            let good = deeds.iter().enumerate().filter(|(at, _)| !rot.contains_key(at)).map(|(_, deed)| deed);
            prop_assert!(holds(&ledger, &known(good)));
            prop_assert_eq!(damage.rotten, rot.keys().filter(|at| **at < deeds.len()).count() as u64);
        }

        #[test]
        fn any_deeds_are_known_after_a_restart(deeds in deeds()) {
            let (_temp, mut ledger) = opened();
            for (key, status) in &deeds {
                match status {
                    Some(status) => ledger.put(Key(*key), &FILE, parked(Reason::Refused, *status)).unwrap(),
                    None => ledger.forget(Key(*key)).unwrap(),
                }
            }
            let known = known(deeds.iter());
            prop_assert!(holds(&ledger, &known));
            prop_assert!(holds(&reopened(ledger).0, &known));
        }
    }
}
