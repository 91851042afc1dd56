//! What flows from the sources to the uplink, and its encoding in the spool and on the wire.
//!
//! The spool stores, a record:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of this layout, 1 |
//! | 1 | flags: bit 0, the wall clock was set |
//! | 16 | boot id (big-endian UUID) |
//! | 8 | milliseconds since boot, little-endian |
//! | 1 | length of the topic |
//! | n | topic below the gateway's, UTF-8 |
//! | … | data: one JSON value as text |
//!
//! Gateway id, epoch, stream and sequence are added at the uplink, where the wire envelope
//! `{"v":1,"gateway":…,"data":{…}}` is written around the data without parsing it.

use std::{fmt::Write as _, sync::Arc, time::SystemTime};

use bytes::{BufMut, Bytes, BytesMut};

/// A stream of the wire contract. Each has its own sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// `event`: delivered before all else, dropped last.
    Event,
    /// `telemetry`: measurements, dropped first.
    Telemetry,
    /// `ingest/NAME`: what local programs handed over. Holds the whole name, `ingest/NAME`.
    Ingest(Arc<str>),
}

impl Stream {
    /// Name on the wire and in the spool.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Event => "event".into(),
            Self::Telemetry => "telemetry".into(),
            Self::Ingest(name) => Arc::clone(name),
        }
    }
}

/// One record on its way into the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Stream that numbers it.
    pub stream: Stream,
    /// Topic below `ROOT/ID/`, such as `telemetry/host`, `event/loss`, `ingest/NAME`; at most 255 bytes.
    pub topic: Arc<str>,
    /// The `data` member: a JSON value as text.
    pub data: Bytes,
}

const VERSION: u8 = 1;
const FLAG_SYNCED: u8 = 1;
const FIXED: usize = 1 + 1 + 16 + 8 + 1;

impl Record {
    /// A record of the stream `event`, topic `event/KIND`.
    #[must_use]
    pub fn event(kind: &str, data: &serde_json::Value) -> Self {
        Self { stream: Stream::Event, topic: format!("event/{kind}").into(), data: data.to_string().into() }
    }

    /// A record of the stream `telemetry`, topic `telemetry/WHAT`.
    #[must_use]
    pub fn telemetry(what: &str, data: Bytes) -> Self {
        Self { stream: Stream::Telemetry, topic: format!("telemetry/{what}").into(), data }
    }

    /// The bytes that the spool keeps.
    ///
    /// # Panics
    ///
    /// Where the topic is over 255 bytes; topics are made of validated parts that cannot be.
    #[must_use]
    pub fn encode(&self, stamp: &Stamp) -> Bytes {
        let mut out = BytesMut::with_capacity(FIXED + self.topic.len() + self.data.len());
        out.put_u8(VERSION);
        out.put_u8(if stamp.synced { FLAG_SYNCED } else { 0 });
        out.put_slice(&stamp.boot);
        out.put_u64_le(stamp.up_ms);
        out.put_u8(u8::try_from(self.topic.len()).expect("topics are built from bounded names"));
        out.put_slice(self.topic.as_bytes());
        out.put_slice(&self.data);
        out.freeze()
    }
}

/// A record as the spool gave it back, still unparsed JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Whether the wall clock was set when it was made.
    pub synced: bool,
    /// Boot in which it was made.
    pub boot: [u8; 16],
    /// Milliseconds since that boot.
    pub up_ms: u64,
    /// Topic below `ROOT/ID/`.
    pub topic: &'a str,
    /// The `data` member as text.
    pub data: &'a str,
}

impl<'a> Stored<'a> {
    /// Reads what [`Record::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        if fixed[0] != VERSION {
            return None;
        }
        let (topic, data) = rest.split_at_checked(usize::from(fixed[FIXED - 1]))?;
        Some(Self {
            synced: fixed[1] & FLAG_SYNCED != 0,
            boot: fixed[2..18].try_into().ok()?,
            up_ms: u64::from_le_bytes(fixed[18..26].try_into().ok()?),
            topic: str::from_utf8(topic).ok()?,
            data: str::from_utf8(data).ok()?,
        })
    }

    /// The wire envelope of the contract.
    #[must_use]
    pub fn envelope(&self, gateway: &str, epoch: &[u8; 16], stream: &str, seq: u64, ts_ms: u64) -> String {
        let mut out = String::with_capacity(self.data.len() + 256);
        // Gateway ids and stream names are validated to need no escaping.
        let _infallible = write!(
            out,
            r#"{{"v":1,"gateway":"{gateway}","boot":"{}","epoch":"{}","stream":"{stream}","seq":{seq},"ts_ms":{ts_ms}"#,
            Uuid(&self.boot),
            Uuid(epoch),
        );
        if !self.synced {
            let _infallible = write!(out, r#","synced":false,"up_ms":{}"#, self.up_ms);
        }
        out.push_str(r#","data":"#);
        out.push_str(self.data);
        out.push('}');
        out
    }
}

/// Writes sixteen bytes as a UUID (RFC 9562, section 4).
#[derive(Clone, Copy, Debug)]
pub struct Uuid<'a>(pub &'a [u8; 16]);

impl std::fmt::Display for Uuid<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_char('-')?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// When and in which boot a record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Boot id.
    pub boot: [u8; 16],
    /// Wall clock, milliseconds since 1970.
    pub ts_ms: u64,
    /// Milliseconds since boot.
    pub up_ms: u64,
    /// Whether the wall clock is believable.
    pub synced: bool,
}

/// The clocks that records are stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    boot: [u8; 16],
}

/// 2026-06-01: a wall clock before this version was written was never set. Moved on with each release.
///
/// A machine without a clock chip does not start in 1970: systemd puts its clock forward to the date of its own build
/// ("built-in epoch"), which is older than what runs on it. So the date is that of this version, and no earlier one.
/// Where systemd-timesyncd left a time stamp, systemd starts from that; such a clock is believed, though it is late by
/// the time that the machine was off. `adjtimex(2)` would tell whether a time service has set it, but not whether
/// a good clock chip or a person has, and `ProtectClock=` forbids it. Consumers order by `seq`, not by time.
const EARLIEST_TS_MS: u64 = 1_780_272_000_000;

impl Clock {
    /// Clocks of this boot.
    #[must_use]
    pub const fn new(boot: [u8; 16]) -> Self {
        Self { boot }
    }

    /// Identity of this boot, from the kernel's `random/boot_id`; zero where it cannot be read.
    #[must_use]
    pub fn of_this_boot() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let mut boot = [0; 16];
        for (byte, pair) in boot.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or_default();
        }
        Self::new(boot)
    }

    /// The boot id.
    #[must_use]
    pub const fn boot(&self) -> &[u8; 16] {
        &self.boot
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Stamp {
        self.at(SystemTime::now())
    }

    fn at(&self, wall: SystemTime) -> Stamp {
        let ts_ms = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let up_ms = u64::try_from(up.tv_sec).unwrap_or(0) * 1000 + u64::try_from(up.tv_nsec).unwrap_or(0) / 1_000_000;
        Stamp { boot: self.boot, ts_ms, up_ms, synced: ts_ms >= EARLIEST_TS_MS }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn stored_bytes_give_the_record_back() {
        let stamp = Stamp { boot: [7; 16], ts_ms: 1_800_000_000_000, up_ms: 42, synced: false };
        let bytes = Record::telemetry("host", Bytes::from_static(b"{\"load\":1}")).encode(&stamp);
        let stored = Stored::decode(&bytes).unwrap();
        assert_eq!((stored.topic, stored.data, stored.up_ms), ("telemetry/host", "{\"load\":1}", 42));
        let wire = stored.envelope("gw-7", &[1; 16], "telemetry", 3, stamp.ts_ms);
        let parsed: serde_json::Value = serde_json::from_str(&wire).unwrap();
        assert_eq!(parsed["boot"], "07070707-0707-0707-0707-070707070707");
        assert_eq!((parsed["seq"].as_u64(), parsed["synced"].as_bool()), (Some(3), Some(false)));
        assert_eq!(parsed["data"]["load"], 1);
    }

    #[test]
    fn a_clock_is_believed_from_the_date_of_this_version_on() {
        let clock = Clock::new([7; 16]);
        assert!(clock.now().synced, "it is later than that here");
        for (since, synced) in [(0, false), (EARLIEST_TS_MS - 1, false), (EARLIEST_TS_MS, true)] {
            let stamp = clock.at(SystemTime::UNIX_EPOCH + Duration::from_millis(since));
            assert_eq!((stamp.ts_ms, stamp.synced), (since, synced));
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!((clock.at(before_1970).ts_ms, clock.at(before_1970).synced), (0, false));
    }

    #[test]
    fn bytes_that_are_no_record_are_refused() {
        for bytes in [
            &b""[..],
            &[1; FIXED - 1],
            &[2; 64],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, b'a'],
        ] {
            assert_eq!(Stored::decode(bytes), None);
        }
    }
}
