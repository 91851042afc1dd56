//! Network policy, as it is desired and reported.
//!
//! # Files
//!
//! [`agent`] decides: it is policy under the [protocol](super::protocol), without effects. `keeper` carries out what it decides,
//! and is the only one that has the kernel enforce anything. `judge` finds out what an envelope says and makes of it what the
//! kernel wants; `shelf` keeps envelopes; `trust` is whose signatures count, `ages` how long rules have; `report` is what is
//! told of it all.
//!
//! # On disk
//!
//! ```text
//! $STATE_DIRECTORY/control/policy.json            what is confirmed and wished, by digest; keys that bundles brought
//!                          policies/DIGEST.json   the envelopes themselves, as they came
//!                          policy-age.json        how long policy has been in force, written each minute
//!                          policy-ttl.json        the age at which each rule with a ttl began
//! ```
//!
//! An envelope is there before the memory refers to it, and goes after the memory no longer does.

pub(super) mod agent;
mod ages;
mod judge;
mod keeper;
mod report;
mod shelf;
mod trust;

use serde::{Deserialize, Serialize};

pub(super) use self::keeper::{Begun, Keeper, Outlets};
pub use self::{
    agent::{MAX_OPEN, Placed},
    keeper::Ask,
    report::{Bringer, BundleStatus, Enforced, Provenance, Standing, TimeLeft},
};

/// What the memory has of an envelope, beside its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// Bytes of the envelope.
    bytes: usize,
    /// Milliseconds since 1970 from which on the bundle counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after_ms: Option<u64>,
    /// Taken over with its confirmation.
    #[serde(default, skip_serializing_if = "trust::Changes::is_empty")]
    keys: trust::Changes,
    /// A technician brought it: that the broker does not have it says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    local: bool,
}
