//! Traffic through a gateway of namespaces, held against what the hosts themselves counted.
//!
//! These scenarios speak to the kernel side as the daemon's traffic source does, so that they see every figure
//! before it is rounded, estimated or published.

mod attaching;
mod counters;
mod daemon;
mod flows;
mod interfaces;
mod pins;
mod published;
mod sends;
mod watcher;

use tidegate_tests::need;
use watcher::Watcher;

/// What every scenario here needs.
fn needs() -> Result<(), String> {
    need::root()?;
    need::program("ip")?;
    need::program("ethtool")
}
