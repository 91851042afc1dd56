//! Where records come from. Each source is one file with one `run`: it takes the live configuration, a
//! [`Sink`] and a shutdown token, publishes its status in a `watch` channel, and returns when it has drained.

pub mod host;
pub mod ingest;
pub mod loss;
mod outbox;
pub mod policy;
pub mod spool;
pub mod traffic;
pub mod upload;

use std::sync::Arc;

use tidegate_spool::{Append, AppendError, LaneId, Spool};

use crate::record::{Clock, Record, Stamp, Stream};

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
    store: Store,
    clock: Clock,
}

#[derive(Clone, Debug)]
enum Store {
    Spool(Spool),
    #[cfg(test)]
    Memory(testing::Memory),
}

impl Sink {
    /// A sink into `spool`.
    #[must_use]
    pub fn new(spool: Spool, clock: Clock) -> Self {
        Self { store: Store::Spool(spool), clock }
    }

    /// What a record that is put now is stamped with.
    pub(crate) fn now(&self) -> Stamp {
        self.clock.now()
    }

    /// The streams `ingest/NAME` that the spool has numbered so far.
    pub(crate) fn ingest_streams(&self) -> Vec<Arc<str>> {
        match &self.store {
            Store::Spool(spool) => {
                let stats = spool.stats();
                let lanes = &stats.borrow().lanes;
                let streams = lanes.get(usize::from(lane::INGEST.0)).map(|lane| lane.streams.iter());
                streams.into_iter().flatten().map(|stream| Arc::clone(&stream.stream)).collect()
            }
            #[cfg(test)]
            Store::Memory(_) => Vec::new(),
        }
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
        match &self.store {
            Store::Spool(spool) => spool.append(batch).await,
            #[cfg(test)]
            Store::Memory(memory) => memory.append(batch).await,
        }
    }
}

const fn lane_of(stream: &Stream) -> LaneId {
    match stream {
        Stream::Event => lane::EVENT,
        Stream::Ingest(_) => lane::INGEST,
        Stream::Telemetry => lane::TELEMETRY,
    }
}

/// A spool in memory, for tests of sources: it can be held up and told to refuse.
#[cfg(test)]
pub(crate) mod testing {
    use std::{
        collections::HashMap,
        sync::{Arc, Mutex},
    };

    use tokio::sync::watch;

    use super::{Append, AppendError, Clock, Sink, Store};
    use crate::record::Stored;

    /// What the store does with the next batches.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Mood {
        Works,
        /// Every append waits.
        Hangs,
        /// Every append is refused as by a full disk.
        Paused,
    }

    #[derive(Clone, Debug)]
    pub(crate) struct Memory {
        stored: Arc<Mutex<Vec<Append>>>,
        mood: Arc<watch::Sender<Mood>>,
    }

    impl Sink {
        /// A sink into memory.
        pub(crate) fn into_memory() -> (Self, Memory) {
            let memory = Memory { stored: Arc::default(), mood: Arc::new(watch::Sender::new(Mood::Works)) };
            (memory.sink(), memory)
        }
    }

    impl Memory {
        pub(crate) fn sink(&self) -> Sink {
            Sink { store: Store::Memory(self.clone()), clock: Clock::new([1; 16]) }
        }

        pub(crate) fn set(&self, mood: Mood) {
            self.mood.send_replace(mood);
        }

        pub(super) async fn append(&self, batch: Vec<Append>) -> Result<Vec<u64>, AppendError> {
            let mut mood = self.mood.subscribe();
            let mood = *mood.wait_for(|mood| *mood != Mood::Hangs).await.map_err(|_| AppendError::Closed)?;
            if mood == Mood::Paused {
                return Err(AppendError::Paused("no space left on device".to_owned()));
            }
            let mut stored = self.stored.lock().unwrap();
            stored.extend(batch.iter().cloned());
            let mut counts: HashMap<&str, u64> = HashMap::new();
            for append in stored.iter() {
                *counts.entry(&append.stream).or_default() += 1;
            }
            let mut seqs: Vec<u64> = batch
                .iter()
                .rev()
                .map(|append| {
                    let next = counts.get_mut(&*append.stream).unwrap();
                    *next -= 1;
                    *next + 1
                })
                .collect();
            seqs.reverse();
            Ok(seqs)
        }

        /// Stream, topic and data of everything that was put.
        pub(crate) fn records(&self) -> Vec<(String, String, String)> {
            let stored = self.stored.lock().unwrap();
            stored
                .iter()
                .map(|append| {
                    let record = Stored::decode(&append.payload).unwrap();
                    (append.stream.to_string(), record.topic.to_owned(), record.data.to_owned())
                })
                .collect()
        }
    }
}
