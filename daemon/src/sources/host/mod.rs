//! The machine's own state, as `telemetry/host`: load, memory, pressure, temperatures, disks, links, and what the
//! daemon itself costs; and when the certificates of its connection expire.
//!
//! Everything comes from /proc, /sys and two system calls, read in one go each `[host] interval`. Counters are
//! sent as the kernel has them, since boot, so that a lost sample costs resolution and nothing else.

mod certificates;
mod disk;
mod files;
mod links;
mod load;
mod memory;
mod own;
mod pressure;
mod sample;
mod thermal;

use std::{path::Path, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{certificates::Alarms, files::Files};
pub use self::{
    certificates::Certificate,
    disk::{Disk, FileSystem},
    links::Link,
    load::{Cpu, Load},
    memory::Memory,
    own::Own,
    pressure::{Pressure, Stall},
    sample::Sample,
    thermal::Temperature,
};
use super::Sink;
use crate::{config::Config, record::Record, supervisor::Pulse};

/// The host source's part of `tidegate status`. Counts are since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HostStatus {
    /// Samples on disk.
    pub published: u64,
    /// Samples that the spool did not take.
    pub dropped: u64,
    /// The last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Sample>,
}

/// Publishes a sample at once and then each interval, until `shutdown`.
pub async fn run(
    mut config: watch::Receiver<Arc<Config>>,
    sink: Sink,
    status: watch::Sender<HostStatus>,
    mut pulse: Pulse,
    shutdown: CancellationToken,
) {
    let mut files = Files::below(Path::new("/"));
    let mut last = Instant::now();
    let mut is_first = true;
    let mut alarms = Alarms::default();
    loop {
        let interval = config.borrow_and_update().host.interval;
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = pulse.asked() => {}
            // A new interval counts from the last sample, so that a change neither delays nor doubles one.
            Ok(()) = config.changed() => {}
            () = sleep_until(if is_first { last } else { last + interval }) => {
                is_first = false;
                last = next_start(last, interval, Instant::now());
                let config = Arc::clone(&config.borrow());
                let now = sink.now();
                let looked = spawn_blocking(move || {
                    let mut sample = Sample::take(&mut files, &config.spool.dir);
                    sample.look_at_certificates(&config, &now);
                    (files, sample)
                });
                let Ok((returned, sample)) = looked.await else { return };
                files = returned;
                pulse.during(publish(sample, &sink, &status, &mut alarms)).await;
            }
        }
    }
}

/// When the interval began whose end has come: on the grid of the earlier ones, unless a whole one was missed
/// (the machine slept, or the spool held us up).
fn next_start(last: Instant, interval: Duration, now: Instant) -> Instant {
    let due = last + interval;
    if now < due + interval { due.min(now) } else { now }
}

async fn publish(mut sample: Sample, sink: &Sink, status: &watch::Sender<HostStatus>, alarms: &mut Alarms) {
    sample.samples_dropped = status.borrow().dropped;
    let (due, given) = alarms.due(&sample.certificates);
    let data = serde_json::to_vec(&sample).expect("numbers, texts, and maps with text keys have a form in JSON");
    let events = due.iter().map(|event| Record::event("incident", event));
    let stored = sink.put([Record::telemetry("host", data.into())].into_iter().chain(events)).await;
    if stored.is_ok() {
        *alarms = given;
    }
    status.send_modify(|status| {
        match &stored {
            Ok(_) => status.published += 1,
            Err(_) => status.dropped += 1,
        }
        status.last = Some(sample);
    });
    if let Err(error) = stored {
        tracing::warn!(%error, "a sample of the host was dropped; the next one that is stored says how many");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use serde_json::Value;
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::sources::testing::Mood;

    /// A folder with captured files in it.
    pub(super) fn tree(captured: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in captured {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let files = Files::below(folder.path());
        (folder, files)
    }

    #[test]
    fn a_machine_that_tells_nothing_is_described_with_reasons() {
        let (_folder, mut files) = tree(&[("proc/loadavg", "not a load\n")]);
        let sample = Sample::take(&mut files, Path::new("/nonexistent/spool"));
        assert_eq!(sample.file_systems.len(), 2);
        assert_eq!(sample.unavailable["load"], "the kernel's text has another form than expected");
        for what in ["cpu", "memory", "pressure/cpu", "pressure/io", "temperatures", "disks", "links"] {
            assert!(sample.unavailable.contains_key(what), "{what}: {:?}", sample.unavailable);
        }
    }

    #[test]
    fn this_machine_is_described() {
        let sample = Sample::take(&mut Files::below(Path::new("/")), Path::new("/"));
        assert!(sample.load.is_some() && sample.cpu.unwrap().count > 0 && sample.memory.unwrap().total_bytes > 0);
        assert!(sample.up_seconds > 0.0 && sample.file_systems.len() == 1);
    }

    fn config(interval_s: u64) -> Arc<Config> {
        let mut config = Config::defaults("gw-1");
        config.host.interval = Duration::from_secs(interval_s);
        config.spool.dir = PathBuf::from("/");
        Arc::new(config)
    }

    #[tokio::test(start_paused = true)]
    async fn samples_come_at_once_and_then_each_interval_which_may_change() {
        let (sink, memory) = Sink::into_memory();
        let (change, config_receiver) = watch::channel(config(60));
        let (status, mut seen) = watch::channel(HostStatus::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(config_receiver, sink, status, Pulse::unasked(), shutdown.clone()));
        seen.wait_for(|status| status.published == 1).await.unwrap();

        sleep(Duration::from_secs(59)).await;
        assert_eq!(memory.records().len(), 1);
        advance(Duration::from_secs(2)).await;
        seen.wait_for(|status| status.published == 2).await.unwrap();
        change.send(config(10)).unwrap();
        let begun = Instant::now();
        seen.wait_for(|status| status.published == 12).await.unwrap();
        assert!((99..=101).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());

        memory.set(Mood::Paused);
        seen.wait_for(|status| status.dropped == 2).await.unwrap();
        memory.set(Mood::Works);
        seen.wait_for(|status| status.published == 13).await.unwrap();
        let records = memory.records();
        let (stream, topic, data) = records.last().unwrap();
        assert_eq!((stream.as_str(), topic.as_str()), ("telemetry", "telemetry/host"));
        assert_eq!(serde_json::from_str::<Value>(data).unwrap()["samples_dropped"], 2);
        shutdown.cancel();
        task.await.unwrap();
    }
}
