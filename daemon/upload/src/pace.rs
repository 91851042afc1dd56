use std::time::{Duration, Instant};
pub struct Bucket {
    rate: u64,
    level: f64,
    at: Instant,
}
impl Bucket {
    pub fn new(now: Instant, rate: u64) -> Self {
        Self { rate, level: rate as f64, at: now }
    }
    pub fn set_rate(&mut self, _now: Instant, rate: u64) {
        self.rate = rate;
    }
    pub fn take(&mut self, now: Instant, wanted: u64) -> Duration {
        let burst = (self.rate as f64).max(65536.0);
        self.level = (self.level + (now - self.at).as_secs_f64() * self.rate as f64).min(burst);
        self.at = now;
        self.level -= wanted as f64;
        if self.level >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.level / self.rate as f64) }
    }
}
