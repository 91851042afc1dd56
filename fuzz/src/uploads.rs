//! Uploads: what servers answer, what programs say of their files, and what a crash or a rotten disk left of our own books.

use std::{fs, time::Duration};

use crc32c::{crc32c, crc32c_append};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use tempfile::TempDir;
use tidegate_upload::{
    http::{Answer, join, redirected},
    journal::{Frame, Journal},
    ledger::{Key, Ledger, MAX_ENTRIES, Parking, Reason, Verdict},
    outbox::{
        Identity,
        sidecar::{self, MAX_ENTRIES as MOST_METADATA},
    },
    retry::MAX_RETRY_AFTER,
    trouble::Trouble,
    tus,
};
use tidegate_values::excerpt;

/// Longest address that is ever taken from a server, with what it is joined to.
const MAX_ADDRESS_BYTES: usize = 8192;
/// A file that verdicts are about.
const FILE: Identity = Identity { dev: 1, ino: 2, size: 3, mtime_ns: 4, ctime_ns: 5 };

/// An answer: its status (two bytes), its headers, a line each, and, behind an empty line, its body.
pub(crate) fn server(bytes: &[u8]) {
    let Some((status, rest)) = bytes.split_at_checked(2) else { return };
    let status = 100 + u16::from_be_bytes([status[0], status[1]]) % 900;
    let status = StatusCode::from_u16(status).expect("it has three digits");
    let mut lines = rest.split_inclusive(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for line in lines.by_ref().map(<[u8]>::trim_ascii_end).take_while(|line| !line.is_empty()) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let body = lines.flatten().copied().collect::<Vec<u8>>();
    for early in [false, true] {
        let said = excerpt(&String::from_utf8_lossy(&body));
        reads(&Answer { status, headers: headers.clone(), said, early });
    }
}

fn reads(answer: &Answer) {
    match tus::abilities(answer) {
        Ok(_) => assert!(answer.header("tus-version").is_some()),
        Err(trouble) => is_fit(&trouble),
    }
    match tus::standing(answer) {
        Ok(_) => assert!(answer.status.is_success()),
        Err(trouble) => is_fit(&trouble),
    }
    match tus::patched(answer) {
        Ok(offset) => assert_eq!(tus::standing(answer).map_or(offset, |standing| standing.offset), offset),
        Err(trouble) => is_fit(&trouble),
    }
    let _any = tus::expires(answer);
    for base in ["https://files.example:8443/up/loads/?a=b", "http://127.0.0.1/files"] {
        let base = Uri::from_static(base);
        match tus::created(&base, answer) {
            Ok(uri) => is_address(&uri),
            Err(trouble) => is_fit(&trouble),
        }
        let location = answer.header("location");
        if let Some(uri) = location.and_then(|location| join(&base, location)) {
            is_address(&uri);
        }
        for (has_body, hops) in [(false, 0), (true, 4), (true, 5)] {
            match redirected(&base, answer.status, location, has_body, hops) {
                Ok(uri) => {
                    is_address(&uri);
                    assert!(hops < 5 && (!has_body || matches!(answer.status.as_u16(), 307 | 308)));
                    assert!(base.scheme_str() != Some("https") || uri.scheme_str() == Some("https"), "{uri}");
                }
                Err(trouble) => is_fit(&trouble),
            }
        }
    }
    for begun in [false, true] {
        is_fit(&answer.trouble(begun));
    }
}

/// It is of HTTP, names nobody and no password, and is the same when it comes out of the journal.
fn is_address(uri: &Uri) {
    let text = uri.to_string();
    assert!(text.len() <= MAX_ADDRESS_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    assert!(matches!(uri.scheme_str(), Some("http" | "https")), "{text}");
    let authority = uri.authority().expect("it has a server");
    assert!(!authority.host().is_empty() && !authority.as_str().contains('@'), "{text}");
    assert_eq!(text.parse::<Uri>().as_ref().ok(), Some(uri));
}

fn is_fit(trouble: &Trouble) {
    super::is_fit_to_be_told(&trouble.text);
    assert!(trouble.retry_after.unwrap_or(Duration::ZERO) <= MAX_RETRY_AFTER);
}

/// A journal: where to go on (a byte, times 64), and then the file as it lies there; and once more with records whose checksums
/// are right, as else hardly one is.
pub(crate) fn journal(bytes: &[u8]) {
    let Some((offset, bytes)) = bytes.split_first() else { return };
    let offset = u64::from(*offset) * 64;
    is_gone_on_with(bytes, offset);
    is_gone_on_with(&mended_journal(bytes), offset);
}

/// Takes the bytes for records without checksums, and gives them some: kind, length, payload.
fn mended_journal(bytes: &[u8]) -> Vec<u8> {
    const SALT: u32 = 0x0102_0304;
    let mut out = b"TGUP\x01\0\0\0".to_vec();
    out.extend(SALT.to_le_bytes());
    // Without a beginning there is nothing to go on with.
    let begin = br#"{"outbox":"/o","name":"n","identity":{"dev":1,"ino":2,"size":3,"mtime_ns":4,"ctime_ns":5},"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","target":"tus http://h/","coding":"zstd","level":1,"codec_version":9,"frame_bytes":262144,"length":null}"#;
    let mut append = |kind: u8, payload: &[u8]| {
        let start = out.len();
        out.extend([kind, 0]);
        out.extend(u16::try_from(payload.len()).expect("it is short").to_le_bytes());
        out.extend(payload);
        let crc = crc32c_append(SALT, &out[start..]);
        out.extend(crc.to_le_bytes());
    };
    append(1, begin);
    let mut rest = bytes;
    while let [kind, length, behind @ ..] = rest {
        let (payload, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        append(*kind % 7, payload);
        rest = behind;
    }
    out
}

/// Whatever the file holds: it is read as far as it is whole, and what is written on top of that is there afterwards.
fn is_gone_on_with(bytes: &[u8], offset: u64) {
    let folder = folder();
    let path = folder.path().join("journal");
    fs::write(&path, bytes).expect("there is room");
    let open = || Journal::open(&path).expect("a file can be opened, whatever it holds");
    let Some(journal) = open() else { return };
    let before = journal.known().clone();
    drop(journal);
    let mut journal = open().expect("it was one before");
    assert_eq!(journal.known(), &before, "looking at it changes nothing");

    let place = journal.resume(offset).expect("it can be written");
    match place.frame {
        Some(frame) => {
            assert!((place.start..place.start + u64::from(frame.length)).contains(&offset), "{place:?}");
            assert_eq!(journal.expected(place.index), Some(frame));
        }
        None => assert!(place.start <= offset || before.frames == 0, "{place:?}"),
    }
    let known = journal.known();
    assert_eq!((known.frames, known.frames_bytes), (place.index, place.start));
    assert!(known.frames <= before.frames && known.frames_bytes <= before.frames_bytes);
    assert_eq!(open().expect("it is still one").known(), known, "what is on disk is what is known");

    let confirmed = known.confirmed ^ 1;
    journal.frame(place.index, Frame { length: 9, crc: 7 }).expect("it can be written");
    journal.confirmed(confirmed).expect("it can be written");
    journal.located("http://h/files/1", false).expect("it can be written");
    let again = open().expect("it is still one");
    assert_eq!(again.known(), journal.known());
    let known = again.known();
    assert_eq!((known.frames, known.frames_bytes), (place.index + 1, place.start + 9));
    assert_eq!((known.confirmed, known.location.as_deref()), (confirmed, Some("http://h/files/1")));
    assert_eq!(known.begin, before.begin);
    journal.remove().expect("it is ours");
}

/// A ledger: the file as it lies there; and once more with records whose checksums are right.
pub(crate) fn ledger(bytes: &[u8]) {
    is_noted_in(bytes, false);
    is_noted_in(&mended_ledger(bytes), true);
}

/// Takes the bytes for the middles of records, and gives them a header and checksums: a byte less than it takes is zero.
fn mended_ledger(bytes: &[u8]) -> Vec<u8> {
    let salt = [7; 16];
    let mut out = b"TIDEUPL\0\x01\0\0\0\0\0\0\0".to_vec();
    out.extend(salt);
    let crc = crc32c(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    for middle in bytes.chunks(16) {
        let offset = out.len() as u64;
        let mut record = [0; 32];
        record[4..4 + middle.len()].copy_from_slice(middle);
        let crc = crc32c_append(crc32c_append(crc32c(&salt), &offset.to_le_bytes()), &record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        out.extend(record);
    }
    out
}

fn is_noted_in(bytes: &[u8], has_header: bool) {
    let folder = folder();
    let path = folder.path().join("ledger");
    fs::write(&path, bytes).expect("there is room");
    let open = || Ledger::open(&path).expect("a file can be opened, whatever it holds");
    let (mut ledger, damage) = open();
    assert!(!has_header || !damage.put_aside);
    assert_eq!(path.with_added_extension("bad").exists(), damage.put_aside, "nothing is thrown away");
    let before = ledger.len();
    assert!(before <= MAX_ENTRIES && before <= bytes.len() / 32);
    let (again, once_more) = open();
    assert_eq!((again.len(), once_more.put_aside), (before, false), "looking at it changes nothing");
    drop(again);

    let verdict = Verdict::Parked(Parking { reason: Reason::Forbidden, status: 403 });
    let (parked, kept, gone) = (Key(1), Key(u64::MAX), Key(2));
    ledger.put(parked, &FILE, verdict).expect("there is room");
    ledger.put(kept, &FILE, Verdict::Kept).expect("there is room");
    ledger.forget(gone).expect("it can be written");
    for ledger in [&ledger, &open().0] {
        assert_eq!(ledger.find(parked, &FILE), Some(verdict));
        assert_eq!(ledger.find(kept, &FILE), Some(Verdict::Kept));
        assert_eq!(ledger.find(gone, &FILE), None);
        assert!(ledger.len() <= before + 2);
    }
    ledger.retry_all().expect("it can be written");
    for ledger in [&ledger, &open().0] {
        assert_eq!((ledger.find(parked, &FILE), ledger.find(kept, &FILE)), (None, Some(Verdict::Kept)));
    }
    let written_anew = fs::metadata(&path).expect("it is there").len() == 32 + 32 * ledger.len() as u64;
    assert!(written_anew, "what was parked is gone from the disk, and so is what had rotted");
}

/// `NAME.meta.json`, as any local program could write it.
pub(crate) fn sidecar(bytes: &[u8]) {
    match sidecar::parse(bytes) {
        Ok(sidecar) => {
            assert!(sidecar.metadata.len() <= MOST_METADATA && sidecar.identity.is_none());
            for (key, value) in &sidecar.metadata {
                assert!((1..=64).contains(&key.len()) && value.len() <= 1024);
                assert!(!key.contains([' ', ',']) && !value.contains(char::is_control), "{key:?}: {value:?}");
            }
            if let Some(media_type) = &sidecar.media_type {
                HeaderValue::from_str(media_type).expect("it goes into a header");
            }
            let pairs = sidecar.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            assert!(tus::metadata(pairs).len() <= tus::MAX_METADATA_BYTES);
        }
        Err(fault) => super::is_fit_to_be_told(&fault),
    }
}

/// In memory where that can be had: the ledger syncs what it writes.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder can be made")
}
