//! What `tidegate status` shows of the uplink.

use std::collections::BTreeMap;

use serde::Serialize;

use super::refusal::Refusal;

/// The uplink's figures. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UplinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// Since when.
    pub since_ts_ms: u64,
    /// Why it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_ts_ms: Option<u64>,
    /// `mqtt://host:port` or `mqtts://…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
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
    /// Messages from the broker that nobody asked for, in this connection.
    pub unexpected_messages: u64,
}

impl UplinkStatus {
    /// Goes over to another state.
    pub(super) fn enter(&mut self, state: LinkState, reason: Option<String>, ts_ms: u64) {
        if self.state != state {
            self.since_ts_ms = ts_ms;
        }
        self.state = state;
        self.reason = reason;
        self.next_attempt_ts_ms = None;
    }
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
