//! What every backend has to do.

use bytes::Bytes;

use super::{Bench, EVENT, SEGMENT, TELEMETRY, arc, last_position, put, read_all, record, seqs};
use crate::{AppendError, Loss, LossReason, ReadFrom, Spool};

pub(super) async fn what_was_appended_is_read_in_order(bench: &impl Bench) {
    let (spool, recovery) = bench.open(bench.options()).await.unwrap();
    assert_eq!(recovery.pending_records, 0);
    let batch = vec![record(EVENT, "a", "one"), record(EVENT, "b", "two"), record(EVENT, "a", "three")];
    assert_eq!(spool.append(batch).await.unwrap(), [1, 1, 2]);
    assert_eq!(put(&spool, EVENT, "b", "four").await.unwrap(), 2);
    let entries = read_all(&spool, EVENT).await;
    let seen: Vec<_> = entries.iter().map(|entry| (&*entry.stream, entry.seq, &entry.payload[..])).collect();
    assert_eq!(seen, [("a", 1, &b"one"[..]), ("b", 1, b"two"), ("a", 2, b"three"), ("b", 2, b"four")]);
    assert!(entries.iter().all(|entry| entry.ts_ms == 1000));
    assert!(read_all(&spool, TELEMETRY).await.is_empty());
    spool.close().await;
}

pub(super) async fn acknowledged_records_are_not_read_again_after_a_restart(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    for text in ["one", "two", "three"] {
        put(&spool, EVENT, "a", text).await.unwrap();
    }
    let entries = read_all(&spool, EVENT).await;
    spool.acknowledge(EVENT, entries[1].position).await;
    assert_eq!(seqs(&read_all(&spool, EVENT).await), [3]);
    spool.close().await;

    let (spool, recovery) = bench.open(bench.options()).await.unwrap();
    assert_eq!((recovery.pending_records, recovery.torn_bytes), (1, 0));
    assert_eq!(seqs(&read_all(&spool, EVENT).await), [3]);
    spool.close().await;
}

pub(super) async fn unacknowledged_records_are_read_again_after_a_restart(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    put(&spool, EVENT, "a", "one").await.unwrap();
    let first = read_all(&spool, EVENT).await;
    spool.close().await;
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    put(&spool, EVENT, "a", "two").await.unwrap();
    let entries = read_all(&spool, EVENT).await;
    assert_eq!(entries[0], first[0]);
    assert_eq!(seqs(&entries), [1, 2]);
    spool.close().await;
}

pub(super) async fn sequences_go_on_after_a_restart(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let epoch = spool.stats().borrow().epoch;
    for _ in 0..3 {
        put(&spool, EVENT, "a", "x").await.unwrap();
    }
    spool.acknowledge(EVENT, last_position(&read_all(&spool, EVENT).await)).await;
    spool.close().await;
    for round in 4..7 {
        let (spool, _) = bench.open(bench.options()).await.unwrap();
        assert_eq!(spool.stats().borrow().epoch, epoch);
        assert_eq!(put(&spool, EVENT, "a", "x").await.unwrap(), round);
        assert_eq!(put(&spool, EVENT, "new", "x").await.unwrap(), round - 3);
        assert!(spool.losses().await.is_empty());
        spool.close().await;
    }
}

pub(super) async fn a_batch_larger_than_a_segment_is_stored(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let payload = Bytes::from(vec![7; 10_000]);
    let batch = vec![record(EVENT, "a", payload.clone()); 30];
    assert_eq!(spool.append(batch).await.unwrap(), (1..=30).collect::<Vec<_>>());
    let entries = read_all(&spool, EVENT).await;
    assert_eq!(seqs(&entries), (1..=30).collect::<Vec<_>>());
    assert!(entries.iter().all(|entry| entry.payload == payload));
    spool.close().await;
}

pub(super) async fn delivered_segments_are_removed(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    spool.append(vec![record(EVENT, "a", vec![7; 10_000]); 30]).await.unwrap();
    let many = spool.stats().borrow().lanes[0].segments;
    assert!(many >= 5, "{many}");
    spool.acknowledge(EVENT, last_position(&read_all(&spool, EVENT).await)).await;
    assert!(read_all(&spool, EVENT).await.is_empty());
    assert!(spool.losses().await.is_empty());
    let mut stats = spool.stats();
    let lane = stats.wait_for(|stats| stats.lanes[0].segments == 1).await.unwrap().lanes[0].clone();
    assert_eq!(lane.pending_records, 0);
    spool.close().await;
    let (spool, recovery) = bench.open(bench.options()).await.unwrap();
    assert_eq!(recovery.pending_records, 0);
    spool.close().await;
}

pub(super) async fn the_least_important_lane_gives_way_and_its_loss_is_counted(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let payload = Bytes::from(vec![7; 5000]);
    for lane in [TELEMETRY, EVENT] {
        for _ in 0..80 {
            put(&spool, lane, if lane == EVENT { "event" } else { "telemetry" }, payload.clone()).await.unwrap();
        }
    }
    for _ in 0..40 {
        put(&spool, TELEMETRY, "telemetry", payload.clone()).await.unwrap();
    }
    let stats = spool.stats().borrow().clone();
    assert!(stats.bytes <= 16 * SEGMENT, "{}", stats.bytes);
    let losses = spool.losses().await;
    let [loss] = &losses[..] else { panic!("one merged range: {losses:?}") };
    let events = read_all(&spool, EVENT).await;
    assert_eq!(seqs(&events), (1..=80).collect::<Vec<_>>());
    let telemetry = read_all(&spool, TELEMETRY).await;
    let first = telemetry[0].seq;
    assert_eq!(seqs(&telemetry), (first..=120).collect::<Vec<_>>());
    let expected = Loss {
        id: loss.id,
        stream: arc("telemetry"),
        from_seq: 1,
        to_seq: first - 1,
        count: first - 1,
        reason: LossReason::Evicted,
    };
    assert_eq!(*loss, expected);
    assert_eq!(stats.lanes[1].pending_records, telemetry.len() as u64);

    spool.losses_reported(vec![loss.id]).await;
    assert!(spool.losses().await.is_empty());
    spool.close().await;
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    assert!(spool.losses().await.is_empty());
    assert_eq!(spool.stats().borrow().lanes[1].streams[0].lost, first - 1);
    spool.close().await;
}

pub(super) async fn a_reader_whose_place_was_evicted_goes_on_at_the_oldest(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let payload = Bytes::from(vec![7; 5000]);
    put(&spool, TELEMETRY, "t", payload.clone()).await.unwrap();
    let read = spool.read(TELEMETRY, ReadFrom::Cursor, 1).await.unwrap();
    for _ in 0..300 {
        put(&spool, TELEMETRY, "t", payload.clone()).await.unwrap();
    }
    let next = spool.read(TELEMETRY, ReadFrom::After(read[0].position), 1).await.unwrap();
    let loss = &spool.losses().await[0];
    assert_eq!(next[0].seq, loss.to_seq + 1);
    // Acknowledging what is gone moves nothing.
    spool.acknowledge(TELEMETRY, read[0].position).await;
    assert_eq!(spool.read(TELEMETRY, ReadFrom::Cursor, 1).await.unwrap()[0].seq, next[0].seq);
    spool.close().await;
}

pub(super) async fn records_that_cannot_be_stored_are_refused(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let large = put(&spool, EVENT, "a", vec![0; Spool::MAX_PAYLOAD_BYTES + 1]).await;
    assert!(matches!(large, Err(AppendError::TooLarge { .. })), "{large:?}");
    for (lane, stream) in [(EVENT, String::new()), (EVENT, "x".repeat(97)), (crate::LaneId(9), "a".into())] {
        let refused = put(&spool, lane, &stream, "x").await;
        assert!(matches!(refused, Err(AppendError::BadStream)), "{refused:?}");
    }
    for stream in 0..36 {
        put(&spool, EVENT, &format!("s{stream}"), "x").await.unwrap();
    }
    let refused = put(&spool, EVENT, "one more", "x").await;
    assert!(matches!(refused, Err(AppendError::TooManyStreams { limit: 36 })), "{refused:?}");
    assert_eq!(read_all(&spool, EVENT).await.len(), 36);
    spool.close().await;
    assert!(matches!(put(&spool, EVENT, "a", "x").await, Err(AppendError::Closed)));
}

pub(super) async fn many_producers_share_a_commit(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let append = |producer: usize| {
        let spool = spool.clone();
        async move { put(&spool, EVENT, &format!("p{}", producer % 8), "x").await.unwrap() }
    };
    let tasks = tokio::task::LocalSet::new();
    let producers: Vec<_> = (0..64).map(|producer| tasks.spawn_local(append(producer))).collect();
    tasks.await;
    for producer in producers {
        producer.await.unwrap();
    }
    let stats = spool.stats().borrow().clone();
    assert_eq!(stats.appended, 64);
    assert!(stats.commits <= 8, "64 producers that wait at once took {} commits", stats.commits);
    spool.close().await;
}

pub(super) async fn figures_follow_what_happens(bench: &impl Bench) {
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let mut stats = spool.stats();
    let empty = stats.borrow_and_update().clone();
    assert_eq!((empty.lanes[0].name.as_str(), empty.lanes[0].end, empty.bytes), ("event", None, 0));
    let mut append = record(EVENT, "a", "x");
    append.ts_ms = 77;
    spool.append(vec![append]).await.unwrap();
    put(&spool, EVENT, "a", "x").await.unwrap();
    stats.changed().await.unwrap();
    spool.losses().await;
    let lane = stats.borrow_and_update().lanes[0].clone();
    assert_eq!((lane.pending_records, lane.oldest_ts_ms, lane.segments), (2, Some(77), 1));
    assert_eq!((&*lane.streams[0].stream, lane.streams[0].next_seq), ("a", 3));
    let entries = spool.read(EVENT, ReadFrom::Cursor, 4096).await.unwrap();
    spool.acknowledge(EVENT, entries[0].position).await;
    spool.close().await;
    let (spool, _) = bench.open(bench.options()).await.unwrap();
    let lane = spool.stats().borrow().lanes[0].clone();
    assert_eq!((lane.pending_records, lane.oldest_ts_ms), (1, Some(1000)));
    spool.close().await;
}
