//! Where records come from. Each source is one file with one `run`: it takes the live configuration, a
//! [`Sink`] and a shutdown token, publishes its status in a `watch` channel, and returns when it has drained.

pub mod loss;

use tidegate_spool::{Append, AppendError, LaneId, Spool};

use crate::record::{Clock, Record, Stream};

/// Lanes of the daemon's spool, in the order of its options.
pub mod lane {
    use tidegate_spool::LaneId;

    /// Stream `event`: delivered first, dropped last.
    pub const EVENT: LaneId = LaneId(0);
    /// Streams `ingest/NAME`.
    pub const INGEST: LaneId = LaneId(1);
    /// Stream `telemetry`: dropped first.
    pub const TELEMETRY: LaneId = LaneId(2);
}

/// Where sources hand over their records: encodes them, stamps them and appends them to the spool.
#[derive(Clone, Debug)]
pub struct Sink {
    spool: Spool,
    clock: Clock,
}

impl Sink {
    /// A sink into `spool`.
    #[must_use]
    pub fn new(spool: Spool, clock: Clock) -> Self {
        Self { spool, clock }
    }

    /// Appends a batch; the sequences come back once all of it is on stable storage.
    ///
    /// # Errors
    ///
    /// Those of the spool; nothing is acknowledged then.
    pub async fn put(&self, records: impl IntoIterator<Item = Record>) -> Result<Vec<u64>, AppendError> {
        let stamp = self.clock.now();
        let batch = records
            .into_iter()
            .map(|record| Append {
                lane: lane_of(&record.stream),
                stream: record.stream.name(),
                ts_ms: stamp.ts_ms,
                payload: record.encode(&stamp),
            })
            .collect();
        self.spool.append(batch).await
    }
}

const fn lane_of(stream: &Stream) -> LaneId {
    match stream {
        Stream::Event => lane::EVENT,
        Stream::Ingest(_) => lane::INGEST,
        Stream::Telemetry => lane::TELEMETRY,
    }
}
