//! The configuration, as it is desired and reported.
//!
//! # Files
//!
//! [`agent`] decides: it is the configuration under the [protocol](super::protocol), without effects. `keeper` carries out
//! what it decides, and is the one owner of the running configuration; `report` is what is told of it.

pub mod agent;
mod keeper;
mod report;

pub(super) use self::keeper::{Begun, Keeper, Outlets};
pub use self::report::{ConfigStatus, Reload};
