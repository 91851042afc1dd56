//! What it means when the broker refuses one record.

use serde::Serialize;

/// Why a record was not taken, after the PUBACK reason codes (MQTT 5, 3.4.2.1) and the limits of CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// 0x80 or 0x83: the broker gives no reason.
    Unspecified,
    /// 0x87: its access list forbids the topic.
    NotAuthorized,
    /// 0x90: the topic's name is not accepted.
    TopicNameInvalid,
    /// 0x91: it thinks the packet identifier is in use.
    PacketIdentifierInUse,
    /// 0x97: a quota is used up.
    QuotaExceeded,
    /// 0x99: the payload is not what its format indicator says.
    PayloadFormatInvalid,
    /// Larger than the Maximum Packet Size that the broker announced in CONNACK.
    TooLarge,
    /// The broker ended the connection each time it came, and nothing else was under way.
    EndsConnection,
}

impl Refusal {
    /// Whether the same record would be refused for ever: it is then reported as lost, and the next one goes.
    /// Anything else passes, or is mended by a person at the broker: the record waits and is tried again.
    pub(super) const fn is_permanent(self) -> bool {
        match self {
            Self::TopicNameInvalid | Self::PayloadFormatInvalid | Self::TooLarge | Self::EndsConnection => true,
            Self::Unspecified | Self::NotAuthorized | Self::PacketIdentifierInUse | Self::QuotaExceeded => false,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the broker gives no reason",
            Self::NotAuthorized => {
                "not authorized: the broker's access list must let this gateway write below its topic"
            }
            Self::TopicNameInvalid => "the broker does not accept the topic's name",
            Self::PacketIdentifierInUse => "the packet identifier is in use",
            Self::QuotaExceeded => "a quota of the broker is used up",
            Self::PayloadFormatInvalid => "the broker does not accept the payload's format",
            Self::TooLarge => "larger than the broker's maximum packet size",
            Self::EndsConnection => {
                "the broker ended the connection each time it was sent; is it larger than a limit of the broker?"
            }
        })
    }
}
