//! Load and processor time: /proc/loadavg and the first line of /proc/stat (`proc_loadavg(5)`, `proc_stat(5)`).

use serde::Serialize;

/// How busy the machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Load {
    /// Average number of tasks that run, want to, or wait for a disk: over a minute.
    #[serde(rename = "1m")]
    pub one_minute: f64,
    /// The same over 5 minutes.
    #[serde(rename = "5m")]
    pub five_minutes: f64,
    /// The same over 15 minutes.
    #[serde(rename = "15m")]
    pub fifteen_minutes: f64,
    /// Tasks that exist.
    pub tasks: u32,
}

/// Processor time of all CPUs together since boot, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// CPUs that are online.
    pub count: u32,
    /// At work: all but idle and waiting.
    pub busy_seconds: f64,
    /// Of that in interrupts and soft interrupts: the network's share is here.
    pub interrupt_seconds: f64,
    /// Idle while a disk was waited for.
    pub io_wait_seconds: f64,
    /// Taken away by the hypervisor.
    pub stolen_seconds: f64,
    /// Idle.
    pub idle_seconds: f64,
}

/// `0.42 0.31 0.28 2/131 4711`
pub(super) fn load(text: &str) -> Option<Load> {
    let mut fields = text.split_ascii_whitespace();
    let mut average = || fields.next()?.parse::<f64>().ok().filter(|average| average.is_finite());
    let (one_minute, five_minutes, fifteen_minutes) = (average()?, average()?, average()?);
    let tasks = fields.next()?.split_once('/')?.1.parse().ok()?;
    Some(Load { one_minute, five_minutes, fifteen_minutes, tasks })
}

/// The `cpu` lines of /proc/stat, in ticks of 1/`ticks_per_second`.
pub(super) fn cpu(text: &str, ticks_per_second: u64) -> Option<Cpu> {
    let mut lines = text.lines();
    let mut fields = lines.next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let mut seconds = || Some(fields.next()?.parse::<u64>().ok()? as f64 / ticks_per_second as f64);
    let (user, nice, system) = (seconds()?, seconds()?, seconds()?);
    let (idle, io_wait, hard, soft) = (seconds()?, seconds()?, seconds()?, seconds()?);
    let stolen = seconds().unwrap_or_default();
    Some(Cpu {
        count: u32::try_from(lines.take_while(|line| line.starts_with("cpu")).count()).ok()?,
        busy_seconds: user + nice + system + hard + soft,
        interrupt_seconds: hard + soft,
        io_wait_seconds: io_wait,
        stolen_seconds: stolen,
        idle_seconds: idle,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn captured_files_are_read() {
        assert_eq!(
            load("3.32 3.23 2.07 6/132 25411\n"),
            Some(Load { one_minute: 3.32, five_minutes: 3.23, fifteen_minutes: 2.07, tasks: 132 })
        );
        let stat = "cpu  196036 10 41677 327868 1942 7 377 2930 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 1 0 0 0 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(
            cpu(stat, 100),
            Some(Cpu {
                count: 2,
                busy_seconds: 1960.36 + 0.1 + 416.77 + 0.07 + 3.77,
                interrupt_seconds: 0.07 + 3.77,
                io_wait_seconds: 19.42,
                stolen_seconds: 29.3,
                idle_seconds: 3278.68,
            })
        );
    }

    proptest! {
        #[test]
        fn hostile_text_is_not_read(text in "(cpu )?[0-9a-z./\n -]{0,80}|.{0,80}") {
            let _either = (load(&text), cpu(&text, 100));
        }
    }
}
