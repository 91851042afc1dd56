//! What people tell the engine to do: over MQTT, and at the gateway.

use std::time::Duration;

use tokio::sync::oneshot;

/// Orders on their way: people give them, one after the other.
pub const ORDERS: usize = 4;

/// Longest pause: who wants more takes the endpoint out of the configuration.
pub const MAX_PAUSE: Duration = Duration::from_hours(7 * 24);
/// Shortest: what is over before anybody looks is a slip of the pen.
pub const MIN_PAUSE: Duration = Duration::from_secs(1);

/// One order. Whoever no longer waits for a reply does not take the order back.
#[derive(Debug)]
pub enum Order {
    /// Send nothing for so long, from [`MIN_PAUSE`] to [`MAX_PAUSE`], from now on; in the place of another pause. It ends by the
    /// clock that nobody sets, and outlives the process.
    Pause(Duration),
    /// Go on now.
    Resume,
    /// Try at once whatever waits for its next attempt, and what is parked once more.
    Retry {
        /// How many files were parked, and are no longer.
        reply: oneshot::Sender<u64>,
    },
}
