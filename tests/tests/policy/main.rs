//! Policies in force: real packets through a gateway of namespaces, while what they are judged by changes.

mod attaching;
mod groups;
mod guard;
mod hostile;
mod interfaces;
mod judged;
mod lockout;
mod managed;
mod memory;
mod page;
mod rates;
mod restarts;
mod show;
mod stream;
mod switches;
mod technician;

use guard::Guard;
use tidegate_tests::need;

/// What every scenario here needs.
fn needs() -> Result<(), String> {
    need::root()?;
    need::program("ip")
}
