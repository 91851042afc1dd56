//! Looking at a spool's files from outside, while it is open and after.

use std::{fs, path::Path};

use tidegate_spool::{Append, IoPreference, LaneId, LaneOptions, Options, ReadFrom, Spool, inspect};

const SEGMENT: u64 = 64 * 1024;

fn options(dir: &Path) -> Options {
    let lane = |name: &str| LaneOptions { name: name.into(), importance: 1, share_bytes: 0 };
    Options {
        dir: dir.to_owned(),
        lanes: vec![lane("event"), lane("telemetry")],
        max_size_bytes: 64 * SEGMENT,
        segment_size_bytes: SEGMENT,
        io: IoPreference::Auto,
        direct: false,
    }
}

async fn put(spool: &Spool, stream: &str, count: usize) {
    let record = Append { lane: LaneId(1), stream: stream.into(), ts_ms: 5, payload: vec![7; 3000].into() };
    spool.append(vec![record; count]).await.unwrap();
}

fn reports(dir: &Path) -> Vec<inspect::FileReport> {
    let mut reports = Vec::new();
    inspect::check(dir, |report| reports.push(report)).unwrap();
    reports
}

#[tokio::test]
async fn an_open_spool_can_be_listed_streamed_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(options(dir.path())).await.unwrap();
    put(&spool, "a", 50).await;
    put(&spool, "b", 3).await;
    let summary = inspect::list(dir.path()).unwrap();
    assert!(summary.held);
    assert_eq!(summary.epoch, Some(spool.stats().borrow().epoch));
    let lane = &summary.lanes[1];
    assert_eq!((lane.name.as_str(), lane.segments.len()), ("telemetry", 3));
    assert!(lane.segments.iter().all(|segment| segment.readable && !segment.delivered));
    assert_eq!(&*lane.streams[1].name, "b");

    let all: Vec<_> = inspect::records(dir.path(), "telemetry", None, 0).unwrap().collect();
    assert_eq!(all.len(), 53);
    let some = inspect::records(dir.path(), "telemetry", Some("a"), 48).unwrap();
    assert_eq!(some.map(|record| record.seq).collect::<Vec<_>>(), [48, 49, 50]);
    let unknown = inspect::records(dir.path(), "nothing", None, 0).unwrap_err().to_string();
    assert_eq!(unknown, "no lane \"nothing\", there are: event, telemetry");

    let checked = reports(dir.path());
    assert_eq!(checked.iter().map(|report| report.records).sum::<u64>(), 53);
    assert!(checked.iter().all(|report| !report.is_damaged() && report.torn_bytes == 0), "{checked:?}");
    spool.close().await;
    assert!(!inspect::list(dir.path()).unwrap().held);
}

#[tokio::test]
async fn delivered_records_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(options(dir.path())).await.unwrap();
    put(&spool, "a", 5).await;
    let entries = spool.read(LaneId(1), ReadFrom::Cursor, 1 << 16).await.unwrap();
    spool.acknowledge(LaneId(1), entries[2].position).await;
    spool.close().await;
    let delivered: Vec<bool> =
        inspect::records(dir.path(), "telemetry", None, 0).unwrap().map(|record| record.delivered).collect();
    assert_eq!(delivered, [true, true, true, false, false]);
    assert_eq!(inspect::list(dir.path()).unwrap().lanes[1].streams[0].acked, 4);
}

#[tokio::test]
async fn a_check_names_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(options(dir.path())).await.unwrap();
    put(&spool, "a", 50).await;
    spool.close().await;
    let segment = dir.path().join("telemetry/0000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[10_000] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let other = dir.path().join("telemetry/0000000000000002.seg");
    fs::write(&other, vec![1; 9000]).unwrap();

    let checked = reports(dir.path());
    let of = |path: &Path| checked.iter().find(|report| report.path == path).unwrap();
    // One frame: 32 bytes of header and 3,000 of payload.
    assert_eq!((of(&segment).damaged.len(), of(&segment).damaged_bytes), (1, 3032));
    assert_eq!(of(&other).problem.as_deref(), Some("not readable as a segment of this lane"));
    assert!(!of(&dir.path().join("meta")).is_damaged());
    let seqs: Vec<u64> = inspect::records(dir.path(), "telemetry", None, 0).unwrap().map(|record| record.seq).collect();
    assert!(!seqs.contains(&2) && seqs.contains(&1) && seqs.contains(&3), "{seqs:?}");
}

#[test]
fn a_folder_without_a_spool_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = inspect::list(dir.path()).unwrap_err().to_string();
    assert_eq!(error, format!("{} holds no spool: neither a meta file nor a lane", dir.path().display()));
}
