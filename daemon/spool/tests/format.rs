//! Holds `docs/spool-format.md` and the bytes together: what the page prints is read back, and what is written is
//! what the page prints.

use std::{fs, path::Path};

use bytes::Bytes;
use tidegate_spool::{
    LossReason, Position,
    format::{
        FIRST_FRAME,
        frame::{self, Head, Kind, Salt},
        header::{self, Header, StreamAt},
        meta::{self, LaneMeta, LossMeta, Meta, StreamMeta},
        walk::{Event, Walk},
    },
};
use tidegate_storage::Pool;

/// The hexadecimal bytes of the block that follows `### Golden: NAME` in the page.
fn golden(name: &str) -> Vec<u8> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/spool-format.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("### Golden: {name}\n")).unwrap_or_else(|| panic!("no golden {name}"));
    let block = rest.split("```").nth(1).unwrap().trim_start_matches("text");
    // Lines read `OFFSET  BYTES`.
    let digits = block.lines().filter_map(|line| Some(line.split_once("  ")?.1)).flat_map(str::split_whitespace);
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

fn dump(bytes: &[u8]) -> String {
    let line = |(index, line): (usize, &[u8])| {
        let bytes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}\n", index * 16, bytes.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

fn assert_golden(name: &str, bytes: &[u8]) {
    assert_eq!(dump(bytes), dump(&golden(name)), "{name}: written, and as docs/spool-format.md has it");
}

const EPOCH: [u8; 16] = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x47, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0];

fn segment_header() -> Header {
    Header {
        epoch: EPOCH,
        lane: "event".into(),
        number: 2,
        salt: 0x0123_4567_89ab_cdef,
        size: 8 << 20,
        previous_end: Position { segment: 1, offset: 5000 },
        streams: vec![StreamAt { id: 0, name: "event".into(), next_seq: 43, skipped: false }],
    }
}

fn spool_meta() -> Meta {
    Meta {
        generation: 7,
        epoch: EPOCH,
        next_loss: 2,
        lanes: vec![LaneMeta {
            name: "event".into(),
            sealed: false,
            cursor: Position { segment: 2, offset: FIRST_FRAME },
            end: Position { segment: 2, offset: 4184 },
            newest: 2,
            doubt: None,
            streams: vec![StreamMeta {
                name: "event".into(),
                next_seq: 44,
                reserved: 262_187,
                acked: 43,
                lost: 3,
                skipped: false,
            }],
        }],
        losses: vec![LossMeta {
            id: 1,
            lane: 0,
            stream: 0,
            reason: LossReason::Evicted,
            from_seq: 1,
            to_seq: 3,
            count: 3,
        }],
    }
}

fn frames() -> Bytes {
    let mut out = Pool::keeping(0, 0).take(256);
    let salt = segment_header().frame_salt();
    frame::put(&mut out, FIRST_FRAME, salt, Head::stream_name(1), b"ingest/a");
    let last = out.len();
    frame::put(&mut out, FIRST_FRAME, salt, Head::record(1, 1, 1_800_000_000_000), b"hello");
    frame::mark_last(&mut out, last, FIRST_FRAME, salt);
    Bytes::copy_from_slice(&out)
}

#[test]
fn a_segment_header_is_what_the_page_prints() {
    let bytes = header::encode(&segment_header());
    // Behind the last stream the block is zero.
    let used = 112 + 12 + 5;
    assert!(bytes[used..].iter().all(|byte| *byte == 0));
    assert_golden("segment header", &bytes[..used]);
    let mut block = golden("segment header");
    block.resize(4096, 0);
    assert_eq!(header::decode(&block), Some(segment_header()));
}

#[test]
fn frames_are_what_the_page_prints() {
    assert_golden("frames", &frames());
    assert_eq!(segment_header().frame_salt(), Salt(u32::from_le_bytes(golden("salt").try_into().unwrap())));
    let bytes = golden("frames");
    let salt = segment_header().frame_salt();
    let mut walk = Walk { at: FIRST_FRAME, end: FIRST_FRAME + bytes.len() as u64, salt };
    let Event::Frame(name, payload) = walk.next(&bytes, FIRST_FRAME) else { panic!("no name") };
    assert_eq!((name.kind, name.stream, &bytes[payload]), (Kind::StreamName, 1, &b"ingest/a"[..]));
    let Event::Frame(record, payload) = walk.next(&bytes, FIRST_FRAME) else { panic!("no record") };
    assert_eq!((record.kind, record.seq, record.last, &bytes[payload]), (Kind::Record, 1, true, &b"hello"[..]));
    assert_eq!(walk.next(&bytes, FIRST_FRAME), Event::End);
}

#[test]
fn a_meta_slot_is_what_the_page_prints() {
    assert_golden("meta slot", &meta::encode(&spool_meta()));
    assert_eq!(meta::decode(&golden("meta slot")), Some(spool_meta()));
}
