//! Provisioning: a file that somebody puts on the gateway tells it who it is and where its broker is.
//!
//! # Constraints
//!
//! The file holds a private key, so it does not stay where it was put; and it was put there by whoever could reach the
//! boot partition, so it is hostile until it has been judged as a whole. Power may go at any point.
//!
//! # Format
//!
//! [`document`] describes `provision.toml`. In the state folder, as its owner's and readable by nobody else:
//!
//! ```text
//! provisioned/                 exchanged as a whole, by one rename(2)
//!     tidegate.toml            a layer of the configuration, above the defaults and below all local files
//!     ca.pem cert.pem key.pem  what it names
//!     taken-in.json            digests of what it was made of
//!     notice.json              for `event/config`, until the daemon has reported it
//! provisioned.new/             under construction, or the one before; left by a crash, and removed then
//! provisioning-refused.json    refusals to be reported, and digests of refused files that could not be renamed
//! ```
//!
//! # Operation
//!
//! [`take_in`], for each file:
//!
//! ```text
//!   absent ──► nothing
//!   dealt with before ─────────────────────────────────────────► removed or renamed, if that can be done now
//!   good ──► provisioned.new written, synced ──► exchanged ──► key, then file removed ──► provisioned.new removed
//!                                  (nothing so far)    (all from here on)
//!   bad ───► refusal noted ──► copied to provision.toml.refused with the reasons on top ──► file removed
//! ```
//!
//! Ended anywhere, the next call goes on: a file whose digests stand in `taken-in.json` is not taken in again, which
//! also holds for one on a medium that cannot be written. A key that stood in a file of its own is removed before the
//! file that names it, so that a missing key means "was taken in" and never "is wrong".
//!
//! Files are read and removed with the caller's rights, root's as a rule; the state is written with those of the
//! folder's owner ([`owner`]), so that a daemon that was taken over cannot make root write elsewhere.

pub mod document;
mod durable;
mod intake;
mod layer;
mod notice;
mod owner;
mod seen;
mod source;
mod state;

use std::path::{Path, PathBuf};

pub use self::{
    document::{Document, Fault},
    intake::{Outcome, take_in},
    notice::report,
};

/// Name of the file.
pub const FILE: &str = "provision.toml";

/// Where it is looked for, the one that counts most first: what an administrator put there, then the boot partition
/// of a Raspberry Pi, of others, and of those that boot by EFI.
pub const FILES: [&str; 4] =
    ["/etc/tidegate/provision.toml", "/boot/firmware/provision.toml", "/boot/provision.toml", "/efi/provision.toml"];

/// The folder that provisioning writes.
#[must_use]
pub fn folder(state: &Path) -> PathBuf {
    state.join("provisioned")
}
