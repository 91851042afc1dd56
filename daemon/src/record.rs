//! What flows from the sources to the uplink, and its encoding in the spool and on the wire.
//!
//! The spool stores, a record: one version byte, one flags byte, the boot id, the monotonic time, the topic
//! below the gateway's, and the data as JSON text. Gateway id, epoch, stream and sequence are added at the
//! uplink, where the wire envelope `{"v":1,"gateway":…,"data":{…}}` is written around the data without parsing it.

use std::sync::Arc;

use bytes::Bytes;

/// A stream of the wire contract. Each has its own sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// `event`: delivered before all else, dropped last.
    Event,
    /// `telemetry`: measurements, dropped first.
    Telemetry,
    /// `ingest/NAME`: what local programs handed over.
    Ingest(Arc<str>),
}

/// One record on its way into the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Stream that numbers it.
    pub stream: Stream,
    /// Topic below `ROOT/ID/`, such as `telemetry/host`, `event/loss`, `ingest/NAME`.
    pub topic: Arc<str>,
    /// The `data` member: a JSON value as text.
    pub data: Bytes,
}
