//! What is known about an upload that was begun, on disk: one file each, so that it goes on after a crash.
//!
//! # Constraints
//!
//! The server says how far it is; the journal says what those bytes were. It grows by 20 bytes a frame of 256 KiB and is read
//! as a stream, so that its memory does not grow with the file. A record is whole or it is not there: a torn tail is cut
//! off. Losing the tail costs processor time and nothing else: frames that are not recorded are made again from the content.
//!
//! # Format
//!
//! Little-endian. The file begins with `TGUP`, version 1 (u16), zero (u16) and a random salt (u32). Records follow:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | kind: 1 begin, 2 location, 3 frame, 4 confirmed, 5 finished |
//! | 1 | zero |
//! | 2 | length of the payload, at most 32 KiB |
//! | n | payload |
//! | 4 | CRC-32C of all that, begun with the salt: bytes of another journal do not validate |
//!
//! | kind | payload |
//! |---|---|
//! | begin | [`Begin`] as JSON; the first record, and only that |
//! | location | where the upload is on the server: a URL. Whatever is recorded before the last one holds for it |
//! | frame | length (u32) and CRC-32C (u32) of a frame as sent; the n-th such record is of frame n |
//! | confirmed | bytes that the server has (u64) |
//! | finished | nothing: the server has all of it |
//!
//! # Operation
//!
//! Records are written before what they tell of is sent, but for *confirmed* and *finished*. They are synced when an upload is begun, and
//! then each [`SYNC_BYTES`] of content: the file system keeps what a killed process wrote, and a power cut costs what is above.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tidegate_values::Digest;

use crate::{
    codec::{Coding, Encoding},
    outbox::Identity,
};

/// Content after which a journal is synced.
pub const SYNC_BYTES: u64 = 32 << 20;

/// Files of which a power cut may cost all that was sent: to sync takes a flash longer than to send them again.
pub const NOT_WORTH_A_SYNC: u64 = 1 << 20;

const MAGIC: [u8; 4] = *b"TGUP";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 12;
const MOST_PAYLOAD: usize = 32 * 1024;

/// What an upload is of, and how it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The outbox.
    pub outbox: PathBuf,
    /// The file's name in it.
    pub name: String,
    /// What makes it this file.
    pub identity: Identity,
    /// Of the content.
    pub sha256: Digest,
    /// Where it goes, and how: another endpoint or protocol is another upload.
    pub target: String,
    /// [`Coding`] by name.
    pub coding: String,
    /// Its level.
    pub level: u8,
    /// [`crate::codec::Encoder::version`] of what encodes it.
    pub codec_version: u32,
    /// [`crate::codec::FRAME_BYTES`].
    pub frame_bytes: u32,
    /// Length of the whole as it is sent, where it was known before; all its frames are recorded then.
    pub length: Option<u64>,
}

impl Known {
    const fn new(begin: Begin) -> Self {
        Self { begin, location: None, confirmed: 0, finished: false, frames: 0, frames_bytes: 0 }
    }
}

impl Begin {
    /// How it is encoded, if that is known here.
    #[must_use]
    pub fn encoding(&self) -> Option<Encoding> {
        Some(Encoding { coding: Coding::named(&self.coding)?, level: self.level })
    }
}

/// A frame as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes.
    pub length: u32,
    /// CRC-32C of them.
    pub crc: u32,
}

impl Frame {
    /// Of these bytes: a few hundred KiB.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { length, crc: crc32c::crc32c(bytes) }
    }
}

/// Where something stands in what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frame that holds it, or that begins there.
    pub index: u64,
    /// Where that frame begins.
    pub start: u64,
    /// The frame as recorded; `None`: it is not.
    pub frame: Option<Frame>,
}

/// What a journal holds, but for its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it is of.
    pub begin: Begin,
    /// Where it is on the server.
    pub location: Option<String>,
    /// Bytes that the server has confirmed.
    pub confirmed: u64,
    /// Whether it has all of them.
    pub finished: bool,
    /// Frames that are recorded.
    pub frames: u64,
    /// Bytes of those.
    pub frames_bytes: u64,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    /// `None`: it could not be made, and what is known is forgotten with the process.
    file: Option<File>,
    path: PathBuf,
    salt: u32,
    known: Known,
    /// Where the next record goes.
    end: u64,
    /// The frame that sending goes on in, as it was sent before.
    resumed: Option<(u64, Frame)>,
    /// The last record that was written: its memory serves the next one.
    record: Vec<u8>,
}

enum Record {
    Begin(Begin),
    Location(String),
    Frame(Frame),
    Confirmed(u64),
    Finished,
}

impl Journal {
    /// Begins a journal at `path`, in place of the one that may be there. Durable where `durable`, also as a name.
    ///
    /// # Errors
    ///
    /// Those of the file system; nothing is left then.
    pub fn create(path: &Path, begin: Begin, durable: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path)?;
        let salt = fastrand::u32(..);
        let mut head = Vec::with_capacity(1024);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[0; 2]);
        head.extend_from_slice(&salt.to_le_bytes());
        append(&mut head, salt, 1, &serde_json::to_vec(&begin)?)?;
        let written = file.write_all(&head).and_then(|()| if durable { sync_with_name(&file, path) } else { Ok(()) });
        if let Err(error) = written {
            let _absent = fs::remove_file(path);
            return Err(error);
        }
        let (file, end) = (Some(file), head.len() as u64);
        Ok(Self { file, path: path.to_owned(), salt, known: Known::new(begin), end, resumed: None, record: Vec::new() })
    }

    /// A journal that is not on disk, where there is no room for one: an upload that is cut off goes on all the same, but not
    /// after the process has ended.
    #[must_use]
    pub fn in_memory(begin: Begin) -> Self {
        Self {
            file: None,
            path: PathBuf::new(),
            salt: 0,
            known: Known::new(begin),
            end: 0,
            resumed: None,
            record: Vec::new(),
        }
    }

    /// Opens the journal at `path`; `None` where there is none that begins whole.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut known: Option<Known> = None;
        let Some(reader) = Reader::new(BufReader::new(&file))? else { return Ok(None) };
        let (salt, end) = reader.walk(|record, _| {
            match (record, &mut known) {
                (Record::Begin(begin), known @ None) => {
                    *known = Some(Known::new(begin));
                }
                (Record::Location(url), Some(known)) => known.location = Some(url),
                (Record::Frame(frame), Some(known)) => {
                    known.frames += 1;
                    known.frames_bytes += u64::from(frame.length);
                }
                (Record::Confirmed(bytes), Some(known)) => known.confirmed = bytes,
                (Record::Finished, Some(known)) => known.finished = true,
                // Something other than a beginning first, or a second one: none of ours.
                (_, None) | (Record::Begin(_), Some(_)) => return false,
            }
            true
        })?;
        let Some(known) = known else { return Ok(None) };
        // What a torn tail left would stand between the records and the next one.
        file.set_len(end)?;
        Ok(Some(Self { file: Some(file), path: path.to_owned(), salt, known, end, resumed: None, record: Vec::new() }))
    }

    /// What it holds.
    #[must_use]
    pub const fn known(&self) -> &Known {
        &self.known
    }

    /// Records where the upload is, so that it is found again after a power cut.
    ///
    /// # Errors
    ///
    /// Those of the file system; what is known here holds all the same.
    pub fn located(&mut self, url: &str, durable: bool) -> io::Result<()> {
        self.known.location = Some(url.to_owned());
        self.write(2, url.as_bytes())?;
        if durable { self.sync() } else { Ok(()) }
    }

    /// Records frame `index` before it is sent; one that is recorded already is left as it is.
    ///
    /// # Errors
    ///
    /// Those of the file system; the frame can be made again from the content.
    pub fn frame(&mut self, index: u64, frame: Frame) -> io::Result<()> {
        if index != self.known.frames {
            return Ok(());
        }
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&frame.length.to_le_bytes());
        payload[4..].copy_from_slice(&frame.crc.to_le_bytes());
        self.write(3, &payload)?;
        self.known.frames += 1;
        self.known.frames_bytes += u64::from(frame.length);
        Ok(())
    }

    /// Records what the server has.
    ///
    /// # Errors
    ///
    /// Those of the file system; the server can be asked again.
    pub fn confirmed(&mut self, bytes: u64) -> io::Result<()> {
        if self.known.confirmed == bytes {
            return Ok(());
        }
        self.known.confirmed = bytes;
        self.write(4, &bytes.to_le_bytes())
    }

    /// Records that the server has all of it: what is left to do is to put the file away.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn finished(&mut self, durable: bool) -> io::Result<()> {
        self.known.finished = true;
        self.write(5, &[])?;
        if durable { self.sync() } else { Ok(()) }
    }

    /// Makes what is recorded survive a power cut.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Finds where byte `offset` of what is sent stands, as far as frames are recorded: in one of them, or at or behind the end
    /// of the last. Sending goes on there: that frame and those behind it are no longer recorded, and are recorded again as they
    /// are made; [`Self::expected`] says what the first of them was.
    ///
    /// # Errors
    ///
    /// Those of the file system; the frames can be made again from the content.
    pub fn resume(&mut self, offset: u64) -> io::Result<Place> {
        let mut place = Place { index: 0, start: 0, frame: None };
        self.resumed = None;
        let Some(mut file) = self.file.as_ref() else { return Ok(place) };
        file.seek(SeekFrom::Start(0))?;
        let mut end = self.end;
        let Some(reader) = Reader::new(BufReader::new(file))? else { return Ok(place) };
        let mut last = 0;
        reader.walk(|record, record_end| {
            let Record::Frame(frame) = record else {
                last = record_end;
                return true;
            };
            if offset < place.start + u64::from(frame.length) {
                place.frame = Some(frame);
                end = last;
                return false;
            }
            last = record_end;
            place.index += 1;
            place.start += u64::from(frame.length);
            true
        })?;
        if let Some(frame) = place.frame {
            file.set_len(end)?;
            self.end = end;
            self.resumed = Some((place.index, frame));
            // What stood behind the frames holds still.
            if let Some(location) = self.known.location.clone() {
                self.write(2, location.as_bytes())?;
            }
            self.write(4, &self.known.confirmed.to_le_bytes())?;
            if self.known.finished {
                self.write(5, &[])?;
            }
        }
        self.known.frames = place.index;
        self.known.frames_bytes = place.start;
        Ok(place)
    }

    /// What frame `index` has to be, if it was sent in part.
    #[must_use]
    pub fn expected(&self, index: u64) -> Option<Frame> {
        self.resumed.filter(|resumed| resumed.0 == index).map(|resumed| resumed.1)
    }

    /// Removes it: the upload is over, or begins anew.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn remove(self) -> io::Result<()> {
        if self.file.is_some() { fs::remove_file(&self.path) } else { Ok(()) }
    }

    fn write(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let record = &mut self.record;
        record.clear();
        append(record, self.salt, kind, payload)?;
        // A part of a record that a full disk left is overwritten by the next one.
        file.write_all_at(record, self.end)?;
        self.end += record.len() as u64;
        Ok(())
    }
}

fn append(out: &mut Vec<u8>, salt: u32, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u16::try_from(payload.len()).ok().filter(|length| usize::from(*length) <= MOST_PAYLOAD);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too long for a journal"))?;
    let start = out.len();
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c_append(salt, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(())
}

fn sync_with_name(file: &File, path: &Path) -> io::Result<()> {
    file.sync_data()?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads records from a stream, one at a time.
struct Reader<R> {
    from: R,
    salt: u32,
}

impl<R: Read> Reader<R> {
    /// `None`: no journal of ours.
    fn new(mut from: R) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD_BYTES];
        if !whole(from.read_exact(&mut head))? || head[..4] != MAGIC || head[4..6] != VERSION.to_le_bytes() {
            return Ok(None);
        }
        let salt = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        Ok(Some(Self { from, salt }))
    }

    /// Gives each record to `take` until that says no, or until one is not whole: the salt, and where the last one taken ends.
    fn walk(mut self, mut take: impl FnMut(Record, u64) -> bool) -> io::Result<(u32, u64)> {
        let mut end = HEAD_BYTES as u64;
        let mut bytes = Vec::new();
        loop {
            bytes.resize(4, 0);
            if !whole(self.from.read_exact(&mut bytes))? {
                break;
            }
            let length = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
            if length > MOST_PAYLOAD {
                break;
            }
            bytes.resize(4 + length + 4, 0);
            if !whole(self.from.read_exact(&mut bytes[4..]))? {
                break;
            }
            let (record, crc) = bytes.split_at(4 + length);
            if crc32c::crc32c_append(self.salt, record).to_le_bytes() != crc {
                break;
            }
            let Some(read) = Record::read(record[0], &record[4..]) else { break };
            let record_end = end + bytes.len() as u64;
            if !take(read, record_end) {
                break;
            }
            end = record_end;
        }
        Ok((self.salt, end))
    }
}

impl Record {
    fn read(kind: u8, payload: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(payload.get(at..at + 4)?.try_into().ok()?));
        Some(match kind {
            1 => Self::Begin(serde_json::from_slice(payload).ok()?),
            2 => Self::Location(String::from_utf8(payload.to_vec()).ok()?),
            3 if payload.len() == 8 => Self::Frame(Frame { length: word(0)?, crc: word(4)? }),
            4 => Self::Confirmed(u64::from_le_bytes(payload.try_into().ok()?)),
            5 if payload.is_empty() => Self::Finished,
            _ => return None,
        })
    }
}

/// Whether there was as much as was asked for.
fn whole(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn begin() -> Begin {
        Begin {
            outbox: "/var/spool/tidegate".into(),
            name: "log.csv".into(),
            identity: Identity { dev: 1, ino: 2, size: 1_000_000, mtime_ns: 3, ctime_ns: 4 },
            sha256: Digest([0; 32]),
            target: "tus https://files.example/".into(),
            coding: "zstd".into(),
            level: 1,
            codec_version: 9,
            frame_bytes: 262_144,
            length: None,
        }
    }

    fn frame(length: u32) -> Frame {
        Frame { length, crc: length ^ 0x5a5a }
    }

    /// A journal with three frames of 100, 50 and 200 bytes.
    fn sample(path: &Path) -> Journal {
        let mut journal = Journal::create(path, begin(), true).unwrap();
        journal.located("https://files.example/1", true).unwrap();
        for (index, length) in [(0, 100), (1, 50), (2, 200)] {
            journal.frame(index, frame(length)).unwrap();
        }
        journal.confirmed(120).unwrap();
        journal
    }

    #[test]
    fn what_was_recorded_is_there_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let known = sample(&path).known().clone();
        let journal = Journal::open(&path).unwrap().unwrap();
        assert_eq!(journal.known(), &known);
        assert_eq!((known.confirmed, known.frames, known.frames_bytes), (120, 3, 350));
        assert_eq!(known.location.as_deref(), Some("https://files.example/1"));
        assert_eq!(known.begin, begin());
    }

    #[test]
    fn an_offset_is_found_in_its_frame_and_recording_goes_on_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for (offset, index, start, length) in
            [(0, 0, 0, Some(100)), (99, 0, 0, Some(100)), (100, 1, 100, Some(50)), (349, 2, 150, Some(200))]
        {
            let mut journal = sample(&path);
            let place = journal.resume(offset).unwrap();
            assert_eq!((place.index, place.start, place.frame.map(|frame| frame.length)), (index, start, length));
            assert_eq!(journal.expected(index), place.frame);
            assert_eq!(journal.expected(index + 1), None);
            journal.frame(index, frame(7)).unwrap();
            let known = journal.known().clone();
            assert_eq!((known.frames, known.frames_bytes), (index + 1, start + 7));
            assert_eq!(Journal::open(&path).unwrap().unwrap().known(), &known, "what is on disk is the same");
        }
        for beyond in [350, 351, u64::MAX] {
            let mut journal = sample(&path);
            assert_eq!(journal.resume(beyond).unwrap(), Place { index: 3, start: 350, frame: None });
            assert_eq!(Journal::open(&path).unwrap().unwrap().known(), journal.known());
        }
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_written_over_wherever_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        sample(&path);
        let bytes = fs::read(&path).unwrap();
        let mut frames = 0;
        for length in (0..bytes.len()).rev() {
            fs::write(&path, &bytes[..length]).unwrap();
            let Some(mut journal) = Journal::open(&path).unwrap() else { continue };
            frames = journal.known().frames;
            journal.frame(frames, frame(77)).unwrap();
            drop(journal);
            let journal = Journal::open(&path).unwrap().unwrap();
            assert_eq!(journal.known().frames, frames + 1, "torn after {length}");
        }
        assert_eq!(frames, 0);
    }

    #[test]
    fn a_frame_that_is_recorded_is_not_recorded_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = sample(&dir.path().join("a"));
        journal.frame(1, frame(9)).unwrap();
        assert_eq!(journal.known().frames, 3);
        journal.frame(3, frame(9)).unwrap();
        assert_eq!((journal.known().frames, journal.known().frames_bytes), (4, 359));
    }

    #[test]
    fn the_format_is_as_the_page_says() {
        let mut bytes = Vec::new();
        append(&mut bytes, 0x0102_0304, 3, &[1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
        assert_eq!(bytes[..12], [3, 0, 8, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[12..], crc32c::crc32c_append(0x0102_0304, &bytes[..12]).to_le_bytes());
        assert!(append(&mut bytes, 0, 2, &vec![0; MOST_PAYLOAD + 1]).is_err());
    }

    proptest! {
        #[test]
        fn a_rotten_journal_is_read_up_to_the_rot_and_never_beyond(at in 0_usize..700, flip in 1_u8..) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            let whole = sample(&path).known().clone();
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            fs::write(&path, &bytes).unwrap();
            if let Some(journal) = Journal::open(&path).unwrap() {
                let known = journal.known();
                prop_assert_eq!(&known.begin, &whole.begin);
                prop_assert!(known.frames <= whole.frames && known.confirmed <= whole.confirmed);
                prop_assert!(known.location.is_none() || known.location == whole.location);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            fs::write(&path, [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 6], &bytes].concat()).unwrap();
            if let Some(mut journal) = Journal::open(&path).unwrap() {
                let _found = journal.resume(5);
            }
        }
    }
}
