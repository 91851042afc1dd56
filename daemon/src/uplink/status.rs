//! What `tidegate status` shows of the uplink.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::refusal::Refusal;

/// The uplink's figures. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UplinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// Since when; serialized as seconds until now: the wall clock may be set in between.
    #[serde(rename = "state_s", serialize_with = "seconds_since", skip_serializing_if = "Option::is_none")]
    pub since: Option<Instant>,
    /// Why it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it is tried again; serialized as seconds from now.
    #[serde(rename = "next_attempt_s", serialize_with = "seconds_until", skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Instant>,
    /// `mqtt://host:port` or `mqtts://…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// What is wrong with certificates, key or password that were replaced since the connection was made; it goes on with
    /// those before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_renewed: Option<String>,
    /// Whether the broker still had our session at the last connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_present: Option<bool>,
    /// How long our own last message took through the broker and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// When it came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_round_trip_ts_ms: Option<u64>,
    /// Records with the broker, not acknowledged yet.
    pub in_flight: usize,
    /// Records that wait because the broker refused them, or because their loss is being reported.
    pub held: usize,
    /// Why the last of them was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_reason: Option<String>,
    /// Records delivered since start.
    pub acknowledged: Delivered,
    /// Connections since start, beyond the first.
    pub reconnects: u64,
    /// Refused records since start, by reason; one record counts as often as it is refused.
    pub refused: BTreeMap<Refusal, u64>,
    /// Records given up since start because the broker will never take them; each is in an `event/loss`.
    pub given_up: u64,
    /// Stored bytes since start that are no record of this version; each is in an `event/loss`.
    pub damaged: u64,
    /// Messages from the broker, in this connection, that are none of what it was asked for: on other topics, or an echo of
    /// what is not our own.
    pub unexpected_messages: u64,
    /// Requests since start that found no room: 16 waited already, or it was all names and properties. Nobody answers them.
    pub dropped_requests: u64,
    /// Whether all that the broker retains for us was read in this connection.
    pub desired_read: bool,
    /// Since when it is being read; serialized as seconds until now. Absent where it is read, and while not connected.
    #[serde(rename = "reading_s", serialize_with = "seconds_since", skip_serializing_if = "Option::is_none")]
    pub reading_since: Option<Instant>,
    /// Times since start that desired state was read again in a running connection: because it was asked for, because
    /// documents came faster than they could be judged, or because so much came that the broker may have dropped some.
    pub rereads: u64,
    /// What the broker does not let us do in this connection; the session goes on without it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub forbidden: BTreeSet<String>,
}

impl UplinkStatus {
    /// Goes over to another state.
    pub(super) fn enter(&mut self, state: LinkState, reason: Option<String>) {
        if self.state != state || self.since.is_none() {
            self.since = Some(Instant::now());
        }
        self.state = state;
        self.reason = reason;
        self.next_attempt = None;
    }
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn seconds_since<S: Serializer>(at: &Option<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(|at| at.elapsed().as_secs()).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "as above")]
fn seconds_until<S: Serializer>(at: &Option<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(|at| at.saturating_duration_since(Instant::now()).as_secs()).serialize(serializer)
}

/// Where the uplink stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// `[mqtt] url` is absent: nobody to deliver to.
    #[default]
    NotProvisioned,
    /// An attempt is under way, up to and with the first round trip.
    Connecting,
    /// Our own messages come back.
    Connected,
    /// A connection that worked was lost; the next attempt waits.
    BackingOff,
    /// The last attempt failed before the first round trip; the next one waits.
    Unreachable,
}

/// Records delivered, by lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Delivered {
    /// Stream `event`.
    pub event: u64,
    /// Streams `ingest/NAME`.
    pub ingest: u64,
    /// Stream `telemetry`.
    pub telemetry: u64,
}
