//! The suite's bodies on the model disk, and a driver that compares a spool with what it promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Duration,
};

use super::{Bench, EVENT, SEGMENT, TELEMETRY, disk::Model, small};
use crate::{
    Append, Entry, LaneId, LossReason, OpenError, Options, ReadFrom, Recovery, Spool, Stats,
    engine::{Engine, Entropy, MAX_COMMANDS},
};

/// A model disk as a bench of the suite: the engine runs as a task beside the test.
pub(super) struct Modeled(pub(super) Model);

impl Bench for Modeled {
    fn options(&self) -> Options {
        small(PathBuf::from("spool"))
    }

    async fn open(&self, options: Options) -> Result<(Spool, Recovery), OpenError> {
        start(&self.0, options).await.map(|(spool, recovery, _task)| (spool, recovery))
    }
}

type Task = JoinHandle<()>;

async fn start(disk: &Model, options: Options) -> Result<(Spool, Recovery, Task), OpenError> {
    let (commands, mut queue) = mpsc::channel(MAX_COMMANDS);
    let (sender, stats) = watch::channel(Stats::default());
    let (opened, answer) = oneshot::channel();
    let mut random = disk.random();
    let entropy = Entropy { epoch: std::array::from_fn(|_| random.u8(..)), salts: random };
    let engine = Engine::open(disk.clone(), options, entropy, sender);
    let task = tokio::task::spawn_local(async move {
        // A test that no longer waits for an answer needs none.
        match engine.await {
            Ok((engine, recovery)) => {
                let _sent = opened.send(Ok(recovery));
                if let Some(reply) = engine.run(&mut queue).await {
                    let _sent = reply.send(());
                }
            }
            Err(error) => {
                let _sent = opened.send(Err(error));
            }
        }
    });
    let recovery = tokio::select! {
        answer = answer => answer.expect("the engine answers")?,
        () = disk.power_gone() => {
            task.abort();
            let _aborted = task.await;
            return Err(OpenError::Options("the power is gone".into()));
        }
    };
    Ok((Spool { commands, stats }, recovery, task))
}

/// Runs a test with time paused, and tasks on this thread.
pub(super) fn block_on<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, body)
}

/// What a driver does with a spool.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Producers that append at once: each a batch of (lane, stream, length of payload).
    Append(Vec<Vec<(bool, u8, u16)>>),
    /// Reads up to so many records of a lane and acknowledges some of them.
    Deliver { event: bool, read: u8, acknowledge: u8 },
    /// Reports the losses.
    Report,
    /// Time passes.
    Wait,
    /// Closes and opens.
    Restart,
    /// The process is killed: what it wrote stays readable.
    Kill,
}

/// A stream, as the oracle names it.
type Stream = (LaneId, String);

/// A spool under test, and what it has promised so far.
pub(super) struct Driver {
    disk: Model,
    options: Options,
    running: Option<(Spool, Task)>,
    /// Payloads are numbered from here on, so that those of two spools differ.
    first_payload: u64,
    next_payload: u64,
    /// Records answered with a sequence: their payloads.
    promised: BTreeMap<Stream, BTreeMap<u64, Vec<u8>>>,
    /// Payloads seen by readers, by sequence: a sequence never changes its payload.
    seen: BTreeMap<Stream, BTreeMap<u64, Vec<u8>>>,
    /// Highest sequence that the consumer acknowledged.
    acknowledged: BTreeMap<Stream, u64>,
    /// Sequences reported lost, with the reason first given.
    lost: BTreeMap<String, BTreeMap<u64, LossReason>>,
    epoch: Option<[u8; 16]>,
}

fn payload(number: u64, length: u16) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((0..length).map(|at| u8::try_from((number + u64::from(at)) % 251).unwrap()));
    bytes
}

fn lane_of(event: bool) -> LaneId {
    if event { EVENT } else { TELEMETRY }
}

fn lane_name(lane: LaneId) -> &'static str {
    if lane == EVENT { "event" } else { "telemetry" }
}

impl Driver {
    pub(super) fn new(disk: Model) -> Self {
        // Padded to blocks on every other disk: the model takes any write, what differs is the engine's part.
        let direct = disk.random().bool();
        let options = Options { max_size_bytes: 6 * SEGMENT, direct, ..small(PathBuf::from("spool")) };
        Self {
            disk,
            options,
            running: None,
            first_payload: 0,
            next_payload: 0,
            promised: BTreeMap::new(),
            seen: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            lost: BTreeMap::new(),
            epoch: None,
        }
    }

    /// Another spool than that of [`Self::new`].
    pub(super) fn another(disk: Model) -> Self {
        Self { first_payload: 1 << 40, next_payload: 1 << 40, ..Self::new(disk) }
    }

    /// Sequences reported lost.
    pub(super) fn lost(&self) -> usize {
        self.lost.values().map(BTreeMap::len).sum()
    }

    /// A handle; opens the spool if it is not open. `None` if the power went meanwhile.
    pub(super) async fn spool(&mut self) -> Result<Option<Spool>, String> {
        if self.running.is_none() {
            for _ in 0..4 {
                match start(&self.disk, self.options.clone()).await {
                    Ok((spool, _recovery, task)) => {
                        self.running = Some((spool, task));
                        break;
                    }
                    Err(OpenError::Options(_)) => return Ok(None),
                    // A passing error while opening is the caller's to try again.
                    Err(OpenError::Io { .. }) => {}
                    Err(error) => return Err(format!("cannot open: {error}")),
                }
            }
            let Some((spool, _)) = &self.running else { return Err("cannot open after 4 tries".into()) };
            let epoch = spool.stats().borrow().epoch;
            // Before anything was promised, a spool may be made anew.
            if self.epoch.is_some_and(|known| known != epoch) && !self.promised.is_empty() {
                return Err("the epoch changed".into());
            }
            self.epoch = Some(epoch);
        }
        Ok(self.running.as_ref().map(|(spool, _)| spool.clone()))
    }

    /// Ends the process without warning.
    pub(super) async fn kill(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
            let _aborted = task.await;
        }
    }

    /// Does one operation. `Ok(false)`: the power went.
    pub(super) async fn step(&mut self, op: &Op) -> Result<bool, String> {
        let Some(spool) = self.spool().await? else { return Ok(false) };
        let disk = self.disk.clone();
        tokio::select! {
            biased;
            done = self.perform(&spool, op) => done.map(|()| true),
            () = disk.power_gone() => Ok(false),
        }
    }

    async fn perform(&mut self, spool: &Spool, op: &Op) -> Result<(), String> {
        match op {
            Op::Append(producers) => self.append(spool, producers).await,
            Op::Deliver { event, read, acknowledge } => {
                let lane = lane_of(*event);
                let entries = self.read(spool, lane, usize::from(*read)).await?;
                let count = entries.len().min(usize::from(*acknowledge));
                if let Some(last) = count.checked_sub(1).and_then(|last| entries.get(last)) {
                    spool.acknowledge(lane, last.position).await;
                    for entry in &entries[..count] {
                        let highest = self.acknowledged.entry((lane, entry.stream.to_string())).or_default();
                        *highest = entry.seq.max(*highest);
                    }
                }
                Ok(())
            }
            Op::Report => self.report(spool).await,
            Op::Wait => {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(())
            }
            Op::Restart => {
                spool.close().await;
                self.kill().await;
                Ok(())
            }
            Op::Kill => {
                self.kill().await;
                Ok(())
            }
        }
    }

    async fn append(&mut self, spool: &Spool, producers: &[Vec<(bool, u8, u16)>]) -> Result<(), String> {
        let mut tasks = Vec::new();
        for batch in producers {
            let mut records = Vec::new();
            for (event, stream, length) in batch {
                self.next_payload += 1;
                records.push(Append {
                    lane: lane_of(*event),
                    stream: format!("{}/{stream}", lane_name(lane_of(*event))).into(),
                    ts_ms: self.next_payload,
                    payload: payload(self.next_payload, *length).into(),
                });
            }
            let spool = spool.clone();
            tasks.push(tokio::task::spawn_local(async move { (spool.append(records.clone()).await, records) }));
        }
        for task in tasks {
            let (answer, records) = task.await.map_err(|error| error.to_string())?;
            let Ok(seqs) = answer else { continue };
            for (record, seq) in records.into_iter().zip(seqs) {
                let stream = (record.lane, record.stream.to_string());
                let before = self.promised.entry(stream.clone()).or_default().insert(seq, record.payload.to_vec());
                if before.is_some() {
                    return Err(format!("sequence {seq} of {stream:?} was given twice"));
                }
                if self.seen.get(&stream).is_some_and(|seen| seen.contains_key(&seq)) {
                    return Err(format!("sequence {seq} of {stream:?} was read before it was given"));
                }
            }
        }
        Ok(())
    }

    /// Reads up to `count` records from the cursor on, and checks what can be checked at once.
    async fn read(&mut self, spool: &Spool, lane: LaneId, count: usize) -> Result<Vec<Entry>, String> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut refusals = 0;
        while entries.len() < count {
            let from = entries.last().map_or(ReadFrom::Cursor, |entry| ReadFrom::After(entry.position));
            match spool.read(lane, from, 8192).await {
                Ok(some) if some.is_empty() => break,
                Ok(some) => entries.extend(some),
                Err(error) => {
                    refusals += 1;
                    if refusals > 4 {
                        return Err(format!("cannot read: {error}"));
                    }
                }
            }
        }
        entries.truncate(count);
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for entry in &entries {
            let number = entry.payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let length = u16::try_from(entry.payload.len().saturating_sub(8)).unwrap_or_default();
            if number <= self.first_payload || number > self.next_payload || payload(number, length) != entry.payload {
                return Err(format!("{}: {} has a payload that nobody appended", entry.stream, entry.seq));
            }
            let stream = (lane, entry.stream.to_string());
            if let Some(before) = last.insert(&entry.stream, entry.seq).filter(|before| *before >= entry.seq) {
                return Err(format!("{stream:?}: {} read after {before}", entry.seq));
            }
            let promised = self.promised.get(&stream).and_then(|promised| promised.get(&entry.seq));
            if promised.is_some_and(|promised| *promised != entry.payload) {
                return Err(format!("{stream:?}: {} has another payload than was promised", entry.seq));
            }
            let seen = self.seen.entry(stream.clone()).or_default();
            let before = seen.insert(entry.seq, entry.payload.to_vec());
            if before.is_some_and(|before| before != entry.payload) {
                return Err(format!("{stream:?}: {} was read with two payloads", entry.seq));
            }
        }
        Ok(entries)
    }

    async fn report(&mut self, spool: &Spool) -> Result<(), String> {
        let losses = spool.losses().await;
        let mut ids = Vec::new();
        for loss in losses {
            if loss.count != loss.to_seq - loss.from_seq + 1 {
                return Err(format!("{loss:?} is not exact"));
            }
            let lost = self.lost.entry(loss.stream.to_string()).or_default();
            for seq in loss.from_seq..=loss.to_seq {
                lost.entry(seq).or_insert(loss.reason);
            }
            ids.push(loss.id);
        }
        spool.losses_reported(ids).await;
        Ok(())
    }

    /// The power goes now, if it has not, and comes back.
    pub(super) async fn power_cut(&mut self) {
        self.kill().await;
        self.disk.power_cut();
    }

    /// Errors are over: after a while a record must be taken again.
    pub(super) async fn heal(&mut self) -> Result<(), String> {
        self.disk.heal();
        let Some(spool) = self.spool().await? else { return Err("no power".into()) };
        tokio::time::sleep(Duration::from_mins(1)).await;
        if let Some(reason) = spool.stats().borrow().paused.clone() {
            return Err(format!("still paused: {reason}"));
        }
        let promised = |driver: &Self| driver.promised.values().map(BTreeMap::len).sum::<usize>();
        let before = promised(self);
        self.append(&spool, &[vec![(true, 0, 10), (false, 0, 10)]]).await?;
        if promised(self) == before { Err("records are still refused".into()) } else { Ok(()) }
    }

    /// Reads everything that is left and compares it with what was promised. `excused` are the reasons for which a
    /// promised record may be missing.
    pub(super) async fn settle(&mut self, excused: &[LossReason]) -> Result<(), String> {
        let Some(spool) = self.spool().await? else { return Err("no power".into()) };
        let mut read: BTreeMap<Stream, BTreeSet<u64>> = BTreeMap::new();
        for lane in [EVENT, TELEMETRY] {
            for entry in self.read(&spool, lane, usize::MAX).await? {
                read.entry((lane, entry.stream.to_string())).or_default().insert(entry.seq);
            }
        }
        self.report(&spool).await?;
        for (stream, promised) in &self.promised {
            let acknowledged = self.acknowledged.get(stream).copied().unwrap_or(0);
            for seq in promised.keys().filter(|seq| **seq > acknowledged) {
                let here = read.get(stream).is_some_and(|read| read.contains(seq));
                let reason = self.lost.get(&stream.1).and_then(|lost| lost.get(seq));
                if !here && !reason.is_some_and(|reason| excused.contains(reason)) {
                    return Err(format!("{stream:?}: promised record {seq} is missing ({reason:?})"));
                }
            }
        }
        for (stream, read) in &read {
            let mut expected = self.acknowledged.get(stream).map_or(1, |acknowledged| acknowledged + 1);
            for seq in read {
                let lost = self.lost.get(&stream.1);
                if let Some(gap) = (expected..*seq).find(|gap| lost.is_none_or(|lost| !lost.contains_key(gap))) {
                    return Err(format!("{stream:?}: gap at {gap} before {seq} that no loss covers"));
                }
                expected = expected.max(seq + 1);
            }
        }
        Ok(())
    }
}
