//! Traffic: exact counters by interface, and flows estimated from samples.
//!
//! Each `[traffic] export_interval` it reads the counters, drains the kernel's flow table chunk by chunk and
//! publishes
//!
//! - `telemetry/traffic`: interfaces, directions and protocol classes, and what became of samples;
//! - `telemetry/flows`: every flow with its estimated volume and the error of that;
//! - `telemetry/ebpf`: what our own programs cost;
//! - `event/incident` where an interface found no counters of its own.
//!
//! In between it reads the counters every two seconds, for `tidegate status`. Live: `interfaces`, `attach`,
//! `sample_rate`, `export_interval`, `time_tcp_sendmsg`.

mod cost;
mod estimate;
mod flow;
mod report;
mod samples;
mod sends;
mod status;
mod tally;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    cost::Meter,
    report::{Entry, Head, Tail},
    status::{Rates, Top},
    tally::Tally,
};
pub use self::{
    estimate::Estimate,
    flow::{BootClock, Flow},
    samples::Samples,
    sends::{Bucket, Sends},
    status::{Flowing, InterfaceStatus, TrafficStatus},
};
use super::{Sink, outbox::Outbox};
use crate::{
    chunks::{Chunks, json},
    config::{Config, Traffic},
    kernel::{Event, Kernel, KernelError, Readings, Watch},
    record::Record,
    supervisor::Pulse,
};

/// How often counters are read for the status: what a person who watches it takes for live.
const REFRESH: Duration = Duration::from_secs(2);
/// Run times of programs are counted for at least this long, and at most two refreshes, in each export interval.
const MIN_WINDOW: Duration = Duration::from_secs(1);
/// How long the last export may wait for the spool; stopping has 5 s in all.
const LAST_EXPORT: Duration = Duration::from_secs(2);
/// Bytes of one part of a long list: far below the spool's limit of 1 MiB for a record.
const PART_BYTES: usize = 60 << 10;

/// Watches traffic until shut down; then exports once more.
pub async fn run(
    kernel: Kernel,
    mut events: mpsc::Receiver<Event>,
    mut config: watch::Receiver<Arc<Config>>,
    sink: Sink,
    status: watch::Sender<TrafficStatus>,
    mut pulse: Pulse,
    shutdown: CancellationToken,
) {
    let traffic = config.borrow_and_update().traffic.clone();
    let mut source = Source::new(kernel, sink, status, traffic);
    pulse.during(source.apply()).await;
    source.refresh().await;
    source.status.send_modify(|status| status.settled = true);
    source.meter.begin(&source.kernel).await;
    let mut refresh = interval_at(tokio::time::Instant::now() + REFRESH, REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut export = source.export_timer();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = pulse.asked() => {}
            Ok(()) = config.changed() => {
                let traffic = config.borrow_and_update().traffic.clone();
                let every = source.traffic.export_interval;
                pulse.during(source.change(traffic)).await;
                if source.traffic.export_interval != every {
                    export = source.export_timer();
                }
            }
            // The spool may keep it waiting; the kernel side has a pulse of its own.
            _ = export.tick() => pulse.during(source.export(source.traffic.export_interval / 2)).await,
            _ = refresh.tick() => source.refresh().await,
            Some(event) = events.recv() => pulse.during(source.note(event)).await,
        }
    }
    source.export(LAST_EXPORT).await;
}

struct Source {
    kernel: Kernel,
    sink: Sink,
    status: watch::Sender<TrafficStatus>,
    traffic: Traffic,
    tally: Tally,
    samples: Samples,
    rates: Rates,
    meter: Meter,
    exported: Instant,
}

impl Source {
    fn new(kernel: Kernel, sink: Sink, status: watch::Sender<TrafficStatus>, traffic: Traffic) -> Self {
        Self {
            kernel,
            sink,
            status,
            traffic,
            tally: Tally::default(),
            samples: Samples::default(),
            rates: Rates::default(),
            meter: Meter::default(),
            exported: Instant::now(),
        }
    }

    fn export_timer(&self) -> tokio::time::Interval {
        let every = self.traffic.export_interval;
        let mut timer = interval_at(tokio::time::Instant::now() + every, every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    }

    async fn change(&mut self, traffic: Traffic) {
        if traffic == self.traffic {
            return;
        }
        if traffic.flow_capacity != self.traffic.flow_capacity {
            tracing::warn!(key = "traffic.flow_capacity", "takes effect with a restart");
        }
        self.traffic = traffic;
        self.apply().await;
        self.refresh().await;
    }

    /// Has the kernel side do what the configuration says.
    async fn apply(&mut self) {
        let Traffic { sample_rate, attach, export_interval, time_tcp_sendmsg, .. } = self.traffic;
        match self.kernel.set_sample_rate(sample_rate).await {
            // Without programs: the readings say so.
            Ok(()) | Err(KernelError::Unavailable(_)) => {}
            Err(error) => tracing::error!(%error, sample_rate, "cannot set the sample rate"),
        }
        let watch = Watch { patterns: self.traffic.interfaces.clone(), attach };
        if let Err(error) = self.kernel.watch(watch).await {
            tracing::error!(%error, "cannot watch interfaces");
        }
        if let Err(error) = self.kernel.time_sends(time_tcp_sendmsg).await {
            tracing::error!(%error, "cannot time tcp_sendmsg");
        }
        self.status.send_modify(|status| {
            status.sample_rate = sample_rate;
            status.export_interval_ms = millis(export_interval);
        });
    }

    async fn note(&mut self, event: Event) {
        if let Event::SlotsExhausted { interface } = event {
            let data = json!({
                "what": "counters_exhausted",
                "interface": interface,
                "detail": "more than 255 interfaces are watched; this one is counted under \"other\"",
            });
            let mut outbox = Outbox::new(&self.sink, LAST_EXPORT);
            outbox.push(Record::event("incident", &data)).await;
            let dropped = outbox.finish().await;
            self.status.send_modify(|status| status.dropped_records += dropped);
        }
        self.refresh().await;
    }

    /// Reads the counters and tells them in the status.
    async fn refresh(&mut self) {
        self.meter.end(&self.kernel, MIN_WINDOW).await;
        let _readings = self.read().await;
    }

    async fn read(&mut self) -> Option<Readings> {
        match self.kernel.read().await {
            Ok(mut readings) => {
                self.tally.observe(&mut readings);
                self.samples.read(&readings.samples);
                let Self { rates, tally, status, samples, .. } = self;
                status.send_modify(|status| {
                    rates.tell(Instant::now(), &readings, tally, status);
                    status.samples = *samples;
                    status.error = None;
                });
                Some(readings)
            }
            Err(error) => {
                let text = error.to_string();
                self.status.send_if_modified(|status| {
                    let new = status.error.as_ref() != Some(&text);
                    if new {
                        tracing::error!(%error, "cannot read the counters");
                        status.error = Some(text);
                    }
                    new
                });
                None
            }
        }
    }

    async fn export(&mut self, patience: Duration) {
        self.meter.end(&self.kernel, Duration::ZERO).await;
        let Some(readings) = self.read().await else { return };
        let interval_ms = millis(self.exported.elapsed());
        self.exported = Instant::now();
        let sink = self.sink.clone();
        let mut outbox = Outbox::new(&sink, patience);
        self.export_flows(&readings, interval_ms, &mut outbox).await;
        self.export_counters(&readings, interval_ms, &mut outbox).await;
        if let Ok(cost) = self.kernel.cost().await {
            outbox.telemetry("ebpf", json(&self.meter.report(&cost, &readings)).into()).await;
        }
        let dropped = outbox.finish().await;
        let samples = self.samples;
        self.status.send_modify(|status| {
            status.samples = samples;
            status.dropped_records += dropped;
        });
        self.meter.begin(&self.kernel).await;
    }

    /// Drains the flow table. The counters of `readings` were read before.
    async fn export_flows(&mut self, readings: &Readings, interval_ms: u64, outbox: &mut Outbox<'_>) {
        if readings.flow_capacity == 0 {
            return;
        }
        let names = self.tally.names();
        let head = FlowsHead { interval_ms, sample_rate: self.traffic.sample_rate };
        let (mut chunks, mut top, mut tail) =
            (Chunks::new(&head, "flows", PART_BYTES), Top::default(), FlowsTail::default());
        let clock = BootClock::now();
        let mut from = None;
        loop {
            let chunk = match self.kernel.drain(from).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    tracing::error!(%error, "flows are not drained");
                    break;
                }
            };
            for (key, value) in &chunk.flows {
                let flow = Flow::new(key, value, names.get(&key.ifindex).map(String::as_str), &clock);
                tail.count += 1;
                tail.samples += u64::from(value.samples);
                if let Some(part) = chunks.push(&flow) {
                    outbox.telemetry("flows", part).await;
                }
                top.offer(flow);
            }
            from = chunk.next;
            if from.is_none() {
                break;
            }
        }
        self.samples.drained(&readings.samples, tail.samples);
        outbox.telemetry("flows", chunks.finish(&tail)).await;
        self.status.send_modify(|status| {
            status.flows = tail.count;
            status.top_flows = top.into_flows();
        });
    }

    async fn export_counters(&mut self, readings: &Readings, interval_ms: u64, outbox: &mut Outbox<'_>) {
        let export = self.tally.export();
        let head = Head { interval_ms, sample_rate: self.traffic.sample_rate, attach: readings.attach };
        let mut chunks = Chunks::new(&head, "interfaces", PART_BYTES);
        for interface in &export.interfaces {
            if let Some(part) = chunks.push(&Entry::new(interface)) {
                outbox.telemetry("traffic", part).await;
            }
        }
        let tail = Tail::new(&export, &self.samples, &readings.not_watched, &readings.unavailable);
        outbox.telemetry("traffic", chunks.finish(&tail)).await;
    }
}

#[derive(Debug, Serialize)]
struct FlowsHead {
    interval_ms: u64,
    sample_rate: u32,
}

#[derive(Debug, Default, Serialize)]
struct FlowsTail {
    /// Flows in all parts.
    count: u64,
    /// Samples in them.
    samples: u64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
