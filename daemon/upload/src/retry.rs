use std::time::{Duration, SystemTime};
pub fn parse_retry_after(text: &str, _now: SystemTime) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}
