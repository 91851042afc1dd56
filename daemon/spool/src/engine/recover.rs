//! Opening: headers of all segments, frames of the newest one of each lane, nothing else.
//!
//! Memory is a few dozen bytes a segment and one chunk, whatever the spool holds.
//!
//! A lane whose end is not known from the meta file was not closed: its newest segment is walked to the last frame
//! that holds. That is the end, and the segment is sealed there; appends go on in a new one, because what lies behind
//! may have failed to sync before the crash, and is only known to be readable now. Bytes behind the end that are
//! not zero, or a file that is shorter than it was made, are a torn commit or a rotten one; which, nobody can tell,
//! so the sequences that they may have carried are skipped.

use std::{cmp::Ordering, io, path::Path};

use tidegate_storage::{Access, Name, Storage};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    Counters, Engine, Entropy,
    checkpoint::Checkpoint,
    lane::{Lane, Segment, Stream},
    ledger::{Ledger, Range},
    quarantine::Quarantine,
    read::{blocks, open_again, read_again, read_blocks, widen},
    segments::most_records,
};
use crate::{
    api::{LaneStats, OpenError, Options, Position, Recovery, Stats},
    fault::{At as _, Fault},
    format::{
        BLOCK, FIRST_FRAME,
        frame::{HEADER, Kind},
        header::{self, Header},
        meta::Meta,
        segment_number,
        walk::{Event, Walk},
    },
    pool::pool,
};

/// Bytes read at once while walking.
const CHUNK: usize = 128 * 1024;

/// Epochs told apart where the meta file is lost. There is one, unless somebody copied files in.
const MAX_EPOCHS: usize = 64;

/// What walking the newest segment found.
struct Walked {
    end: u64,
    /// Bytes behind the end that may have been records.
    suspect: u64,
    /// Start of a hole that may be a commit that was never acknowledged.
    doubt: Option<u64>,
}

impl<S: Storage> Engine<S> {
    /// Opens the spool in `options.dir`, which exists and is ours alone.
    pub(crate) async fn open(
        storage: S,
        options: Options,
        entropy: Entropy,
        stats: watch::Sender<Stats>,
    ) -> Result<(Self, Recovery), OpenError> {
        let started = Instant::now();
        let dir = options.dir;
        let pool = pool();
        let (checkpoint, meta) = Checkpoint::open(&storage, &dir, &pool).await?;
        // An eighth of the cap, and room for two whole segments.
        let most_quarantined = (options.max_size_bytes / 8).max(2 * options.segment_size_bytes);
        let quarantine = Quarantine::open(&storage, &dir, most_quarantined).await?;
        let lanes = options.lanes.into_iter().map(|lane| Lane::new(lane.clone(), dir.join(&lane.name))).collect();
        let mut engine = Self {
            storage,
            dir,
            max_size_bytes: options.max_size_bytes,
            segment_size_bytes: options.segment_size_bytes,
            direct: options.direct,
            epoch: entropy.epoch,
            salts: entropy.salts,
            pool,
            lanes,
            strangers: Vec::new(),
            ledger: Ledger { next_id: 1, ranges: Vec::new() },
            checkpoint,
            quarantine,
            waiting: Vec::new(),
            staged_bytes: 0,
            paused: None,
            cursor_due: None,
            counters: Counters::default(),
            stats,
        };
        let mut recovery = Recovery::default();
        engine.recover(meta, &mut recovery).await?;
        recovery.took = started.elapsed();
        engine.introduce();
        engine.publish().await;
        Ok((engine, recovery))
    }

    async fn recover(&mut self, meta: Option<Meta>, recovery: &mut Recovery) -> Result<(), Fault> {
        let mut found = Vec::new();
        for index in 0..self.lanes.len() {
            found.push(self.segment_files(index).await?);
        }
        // Lanes' folders that were just made are part of what a commit promises.
        self.storage.sync_dir(&self.dir).await.at("fsync", &self.dir)?;
        let known = match &meta {
            Some(meta) => {
                self.epoch = meta.epoch;
                self.restore(meta);
                true
            }
            None => self.adopt_epoch(&found).await?,
        };
        if meta.is_none() && known {
            warn!("both slots of the meta file are lost: everything on disk is delivered again");
        }
        for (index, files) in found.into_iter().enumerate() {
            self.recover_lane(index, files, meta.as_ref(), recovery).await?;
        }
        // The ends found, sequences skipped and losses become durable together, before anything is built on them.
        self.persist().await?;
        for index in 0..self.lanes.len() {
            self.trim_newest(index).await;
            // Files that a crash left behind between making the cursor durable and unlinking.
            self.release(index).await?;
        }
        Ok(())
    }

    /// Segment files of a lane, oldest first. What a crash left half-made is removed.
    async fn segment_files(&mut self, index: usize) -> Result<Vec<(u64, Name)>, Fault> {
        let dir = self.lanes[index].dir.clone();
        self.storage.create_dir(&dir).await.at("mkdir", &dir)?;
        let mut files = Vec::new();
        for file in self.storage.list(&dir).await.at("read", &dir)? {
            if let Some(number) = segment_number(&file.name) {
                files.push((number, file));
            } else if Path::new(&file.name).extension().is_some_and(|extension| extension == "new") {
                let path = dir.join(&file.name);
                self.storage.remove(&path).await.at("unlink", &path)?;
            }
        }
        files.sort_unstable_by_key(|(number, _)| *number);
        Ok(files)
    }

    fn restore(&mut self, meta: &Meta) {
        let place = |name: &str| self.lanes.iter().position(|lane| lane.options.name == name);
        let places: Vec<Option<usize>> = meta.lanes.iter().map(|lane| place(&lane.name)).collect();
        for (lane, place) in meta.lanes.iter().zip(&places) {
            if let Some(index) = place {
                self.lanes[*index].restore(lane);
            } else {
                warn!(lane = %lane.name, "lane on disk is not configured and left alone");
                self.strangers.push(lane.clone());
            }
        }
        self.ledger.next_id = meta.next_loss.max(1);
        for loss in &meta.losses {
            // Losses of lanes that are no longer served have nobody to be reported to.
            let Some(lane) = places[usize::from(loss.lane)] else { continue };
            self.ledger.ranges.push(Range {
                id: loss.id,
                lane,
                stream: usize::from(loss.stream),
                reason: loss.reason,
                from_seq: loss.from_seq,
                to_seq: loss.to_seq,
                count: loss.count,
            });
        }
    }

    /// Without a meta file, the epoch is the one that most segments carry. Says whether there is one.
    async fn adopt_epoch(&mut self, found: &[Vec<(u64, Name)>]) -> Result<bool, Fault> {
        let mut epochs: Vec<([u8; 16], u64)> = Vec::new();
        for (index, files) in found.iter().enumerate() {
            for (number, file) in files {
                let Some(header) = self.probe_header(index, *number, &file.name).await? else { continue };
                if let Some((_, count)) = epochs.iter_mut().find(|(epoch, _)| *epoch == header.epoch) {
                    *count += 1;
                } else if epochs.len() < MAX_EPOCHS {
                    epochs.push((header.epoch, 1));
                }
            }
        }
        let most = epochs.into_iter().max_by_key(|(_, count)| *count);
        if let Some((epoch, _)) = most {
            self.epoch = epoch;
        }
        Ok(most.is_some())
    }

    /// The header of a file that claims to be segment `number`; `None` if it is not readable as one.
    async fn probe_header(&mut self, index: usize, number: u64, name: &str) -> Result<Option<Header>, Fault> {
        let path = self.lanes[index].dir.join(name);
        let file = match open_again(&self.storage, &path, self.direct).await {
            Ok(file) => file,
            // The process or the machine is short of something: no word about the file.
            Err(error) if is_shortage(&error) => return Err(error).at("open", &path),
            Err(_unreadable) => return Ok(None),
        };
        let read = read_again(&self.storage, &file, &self.pool, 0, BLOCK).await;
        self.storage.close(file).await;
        let header = read.ok().and_then(|buffer| header::decode(&buffer));
        Ok(header.filter(|header| header.number == number && header.lane == self.lanes[index].options.name))
    }

    async fn recover_lane(
        &mut self,
        index: usize,
        files: Vec<(u64, Name)>,
        meta: Option<&Meta>,
        recovery: &mut Recovery,
    ) -> Result<(), Fault> {
        let known = meta.and_then(|meta| meta.lanes.iter().find(|lane| lane.name == self.lanes[index].options.name));
        let mut newest: Option<Header> = None;
        let mut unreadable = 0;
        for (number, file) in files {
            self.lanes[index].newest = self.lanes[index].newest.max(number);
            let header = self.probe_header(index, number, &file.name).await?;
            let Some(header) = header.filter(|header| header.epoch == self.epoch) else {
                let (lane, dir) = (self.lanes[index].options.name.clone(), self.lanes[index].dir.clone());
                warn!(%lane, file = %file.name, "not a segment of this spool, put in quarantine");
                self.quarantine.take(&self.storage, &lane, &dir, &file).await?;
                recovery.quarantined_files += 1;
                unreadable += 1;
                continue;
            };
            unreadable = 0;
            self.add_segment(index, &header, file.bytes, known.is_none());
            newest = Some(header);
        }
        let lane = &mut self.lanes[index];
        let last = lane.segments.back().map_or(0, |segment| segment.number);
        // Segments that were written are gone or unreadable: how far their sequences went is not known.
        let mut suspect = if lane.end.segment > last || (known.is_none() && unreadable > 0) { u64::MAX } else { 0 };
        let before: Vec<u64> = lane.streams.iter().map(|stream| stream.next_seq).collect();
        match newest {
            Some(_) if known.is_some_and(|known| known.sealed) && lane.end.segment == last => {}
            Some(header) => {
                let walked = self.walk_newest(index, &header).await?;
                recovery.torn_bytes += walked.suspect;
                suspect = suspect.max(walked.suspect);
                let lane = &mut self.lanes[index];
                lane.end = Position { segment: header.number, offset: walked.end };
                lane.doubt = walked.doubt.map(|offset| Position { segment: header.number, offset });
            }
            None => lane.end = Position::default(),
        }
        let lane = &mut self.lanes[index];
        if let Some(segment) = lane.segments.back_mut() {
            segment.end = lane.end.offset;
        }
        // The meta file knew of records that are not here any more.
        if lane.streams.iter().zip(&before).any(|(stream, before)| stream.next_seq < *before) {
            suspect = u64::MAX;
        }
        lane.pending = lane.streams.iter().map(|stream| stream.next_seq.saturating_sub(stream.acked)).sum();
        if suspect > 0 {
            self.skip_sequences(index, suspect, unreadable + 1);
        }
        let lane = &mut self.lanes[index];
        lane.settle();
        recovery.pending_records += lane.pending;
        Ok(())
    }

    /// Adds a segment behind those that are known, whose last one ends where this header says.
    fn add_segment(&mut self, index: usize, header: &Header, bytes: u64, adopt: bool) {
        let lane = &mut self.lanes[index];
        if let Some(previous) = lane.segments.back_mut() {
            previous.end = match header.previous_end.segment.cmp(&previous.number) {
                Ordering::Equal => header.previous_end.offset.min(previous.end),
                // The log went on from an earlier place: nothing in the previous segment counts.
                Ordering::Less => FIRST_FRAME,
                // The segment between is gone.
                Ordering::Greater => previous.end,
            };
        }
        if adopt && lane.segments.is_empty() {
            lane.cursor = Position { segment: header.number, offset: FIRST_FRAME };
        }
        for at in &header.streams {
            let id = usize::from(at.id);
            // Without a meta file, what lies before the first segment found was delivered.
            if id == lane.streams.len() {
                let first = if adopt && lane.segments.is_empty() { at.next_seq } else { 1 };
                lane.streams.push(Stream::starting_at(at.name.clone(), first));
            }
        }
        lane.segments.push_back(Segment {
            number: header.number,
            bytes,
            // A torn file name may belong to a file of any length; frames never go beyond what it was made with.
            end: bytes.clamp(FIRST_FRAME, header.size.max(FIRST_FRAME)),
            size: header.size,
            salt: header.frame_salt(),
        });
    }

    /// Walks the newest segment and brings the streams' sequences up to what it holds.
    async fn walk_newest(&mut self, index: usize, header: &Header) -> Result<Walked, Fault> {
        let lane = &mut self.lanes[index];
        for at in &header.streams {
            if let Some(stream) = lane.streams.get_mut(usize::from(at.id)) {
                stream.next_seq = at.next_seq;
                stream.skipped = false;
            }
        }
        let segment = *lane.segments.back().expect("its header was just read");
        let path = self.segment_path(index, segment.number);
        let file = self.storage.open(&path, Access::Read, self.direct).await.at("open", &path)?;
        // What is read now may stand in the page cache only, if the process was killed before its sync.
        self.storage.sync(&file).await.at("fdatasync", &path)?;

        let mut walk = Walk { at: FIRST_FRAME, end: segment.end, salt: segment.salt };
        let mut walked = Walked { end: FIRST_FRAME, suspect: 0, doubt: None };
        let (mut chunk, mut start) = (self.pool.take(BLOCK), FIRST_FRAME);
        let mut last_byte = FIRST_FRAME;
        // Starts of the first hole since the last end of a commit, and since the one before.
        let (mut hole_in_last, mut hole_in_previous) = (None, None);
        let mut trailing_hole = None;
        loop {
            match walk.next(&chunk, start) {
                Event::Frame(head, payload) => {
                    walked.end = walk.at;
                    if let Some(hole) = trailing_hole.take() {
                        hole_in_last = hole_in_last.or(Some(hole));
                    }
                    match head.kind {
                        Kind::Record => self.recovered(index, usize::from(head.stream), head.seq),
                        Kind::StreamName => self.named(index, usize::from(head.stream), &chunk[payload]),
                        Kind::Padding => {}
                    }
                    if head.last {
                        hole_in_previous = hole_in_last.take();
                    }
                }
                Event::Hole(hole) => {
                    trailing_hole = trailing_hole.or(Some(hole.start));
                    let [from, to] = [hole.start, hole.end].map(|at| usize::try_from(at - start).unwrap_or(usize::MAX));
                    let bytes = chunk.get(from..to.min(chunk.len())).unwrap_or_default();
                    if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                        last_byte = hole.start + last as u64 + 1;
                    }
                }
                Event::More(wanted) => {
                    let (from, length) = blocks(walk.at, wanted.max(CHUNK), segment.end);
                    let mut buffer = self.pool.take(length);
                    buffer.set_len(length);
                    let (read, buffer) = self.storage.read(&file, buffer, from).await;
                    start = from;
                    chunk = if read.is_ok() {
                        widen(buffer, length)
                    } else {
                        let (buffer, unreadable) = read_blocks(&self.storage, &file, &self.pool, from, length).await;
                        if unreadable > 0 {
                            last_byte = from + length as u64;
                        }
                        buffer
                    };
                }
                Event::End => break,
            }
        }
        self.storage.close(file).await;
        if segment.bytes < segment.size {
            last_byte = segment.size;
        }
        walked.suspect = last_byte.saturating_sub(walked.end);
        walked.doubt = hole_in_previous.or(hole_in_last);
        Ok(walked)
    }

    fn recovered(&mut self, index: usize, id: usize, seq: u64) {
        if let Some(stream) = self.lanes[index].streams.get_mut(id) {
            stream.next_seq = stream.next_seq.max(seq + 1);
        }
    }

    fn named(&mut self, index: usize, id: usize, name: &[u8]) {
        let lane = &mut self.lanes[index];
        if let (true, Ok(name)) = (id == lane.streams.len(), str::from_utf8(name)) {
            lane.streams.push(Stream::starting_at(name.into(), 1));
        }
    }

    /// Skips the sequences that `suspect` bytes may have carried: at most one for the length of a header, and
    /// none that was not set aside.
    fn skip_sequences(&mut self, index: usize, suspect: u64, segments: u64) {
        let most = most_records(self.segment_size_bytes) * segments;
        let lane = &mut self.lanes[index];
        for stream in &mut lane.streams {
            // Where it is not known how much was set aside, each lost segment may have been full.
            let reserved = stream.reserved.saturating_sub(stream.next_seq);
            let bound = if reserved > 0 { reserved } else { most };
            let skip = bound.min(suspect.div_ceil(HEADER as u64));
            stream.next_seq += skip;
            stream.skipped |= skip > 0;
        }
        info!(lane = %lane.options.name, "sequences are skipped behind a torn or lost end");
    }

    /// Gives back what was set aside behind the end, now that the end is written down.
    async fn trim_newest(&mut self, index: usize) {
        let Some(segment) = self.lanes[index].segments.back().copied().filter(|s| s.bytes > s.end) else { return };
        let path = self.segment_path(index, segment.number);
        let Ok(file) = self.storage.open(&path, Access::Write, self.direct).await else { return };
        if self.storage.truncate(&file, segment.end).await.is_ok()
            && let Some(segment) = self.lanes[index].segments.back_mut()
        {
            segment.bytes = segment.end;
        }
        self.storage.close(file).await;
    }

    /// Fills in the figures that never change.
    fn introduce(&mut self) {
        let lane = |lane: &Lane<S::File>| LaneStats { name: lane.options.name.clone(), ..LaneStats::default() };
        self.stats.send_modify(|stats| {
            stats.epoch = self.epoch;
            stats.io = self.storage.name();
            stats.direct = self.direct;
            stats.max_size_bytes = self.max_size_bytes;
            stats.lanes = self.lanes.iter().map(lane).collect();
        });
    }
}

/// Errors that speak about the process or the machine, not about the file.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}
