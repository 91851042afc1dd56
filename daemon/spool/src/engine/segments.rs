//! Segment files: made, sealed, released when delivered, evicted when the spool is full.

use std::path::PathBuf;

use tidegate_storage::{Access, Storage};
use tracing::warn;

use super::{
    Engine,
    lane::{Active, Segment},
    read::{open_again, read_again},
};
use crate::{
    api::{LossReason, Position},
    fault::{At as _, Fault},
    format::{
        BLOCK, FIRST_FRAME,
        frame::HEADER,
        header::{self, Header, StreamAt},
        segment_file_name,
    },
};

/// Records that a segment of `size` bytes can hold at most: none is shorter than a frame's header.
pub(super) const fn most_records(size: u64) -> u64 {
    size / HEADER as u64
}

impl<S: Storage> Engine<S> {
    pub(super) fn segment_path(&self, lane: usize, number: u64) -> PathBuf {
        self.lanes[lane].dir.join(segment_file_name(number))
    }

    /// Goes on in a new segment, with room made for it.
    pub(super) async fn roll(&mut self, index: usize) -> Result<(), Fault> {
        self.seal(index).await;
        self.make_room(index).await?;
        self.create(index).await?;
        let reserved = self.reserve(index).await;
        if reserved.is_err() {
            self.abandon(index).await;
        }
        reserved
    }

    /// Nothing more is written to the active segment, whose end is exact.
    pub(super) async fn seal(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let (Some(active), Some(segment)) = (lane.active.take(), lane.segments.back_mut()) else { return };
        // Gives back what was set aside and not used. If it fails, or is undone by a crash, the file is merely
        // longer: the end that counts stands in the next segment's header, or in the meta file.
        if self.storage.truncate(&active.file, segment.end).await.is_ok() {
            segment.bytes = segment.end;
        }
        self.storage.close(active.file).await;
    }

    /// Gives up the active segment after a failed write or sync. What it holds up to the last good commit stays;
    /// one that holds nothing goes, so that a failing disk does not fill up with empty segments.
    pub(super) async fn abandon(&mut self, index: usize) {
        self.seal(index).await;
        let lane = &mut self.lanes[index];
        let Some(segment) = lane.segments.pop_back_if(|segment| segment.end == FIRST_FRAME) else { return };
        lane.end = lane
            .segments
            .back()
            .map_or_else(Position::default, |previous| Position { segment: previous.number, offset: previous.end });
        let path = self.segment_path(index, segment.number);
        if let Err(error) = self.storage.remove(&path).await {
            // It will be found at the next start, and stepped over: the header behind it names an earlier end.
            warn!(%error, path = %path.display(), "cannot remove an empty segment");
        }
    }

    /// Makes a segment and goes on in it. It gets its name when its header is on stable storage, so that a
    /// segment without a valid header is always damage.
    async fn create(&mut self, index: usize) -> Result<(), Fault> {
        let salt = self.salts.u64(..);
        let lane = &mut self.lanes[index];
        // A number is never used twice, even if making the file fails half-way.
        lane.newest += 1;
        let header = Header {
            epoch: self.epoch,
            lane: lane.options.name.clone(),
            number: lane.newest,
            salt,
            size: self.segment_size_bytes,
            previous_end: lane.end,
            streams: lane.table(),
        };
        let path = self.segment_path(index, header.number);
        let fresh = path.with_extension("new");
        let file = self.storage.open(&fresh, Access::Create, self.direct).await.at("create", &fresh)?;
        if let Err(fault) = self.write_header(index, &file, &header).await {
            self.storage.close(file).await;
            for path in [fresh, path] {
                let _never_made = self.storage.remove(&path).await;
            }
            return Err(fault);
        }
        let lane = &mut self.lanes[index];
        lane.segments.push_back(Segment {
            number: header.number,
            bytes: header.size,
            end: FIRST_FRAME,
            size: header.size,
            salt: header.frame_salt(),
        });
        lane.end = Position { segment: header.number, offset: FIRST_FRAME };
        lane.active = Some(Active { file, named: header.streams.len() });
        for stream in &mut lane.streams {
            stream.skipped = false;
        }
        lane.settle();
        Ok(())
    }

    async fn write_header(&self, index: usize, file: &S::File, header: &Header) -> Result<(), Fault> {
        let dir = &self.lanes[index].dir;
        let path = self.segment_path(index, header.number);
        let fresh = path.with_extension("new");
        self.storage.allocate(file, header.size).await.at("fallocate", &fresh)?;
        let mut buffer = self.pool.take(BLOCK);
        buffer.extend(&header::encode(header));
        let (written, _buffer) = self.storage.write(file, buffer, 0).await;
        written.at("write", &fresh)?;
        self.storage.sync(file).await.at("fdatasync", &fresh)?;
        self.storage.rename(&fresh, &path).await.at("rename", &path)?;
        self.storage.sync_dir(dir).await.at("fsync", dir)
    }

    /// Sets sequences aside for all that the active segment can still take, so that even if the segment is lost
    /// whole no sequence is used twice. Once a segment, and for each new stream.
    pub(super) async fn reserve(&mut self, index: usize) -> Result<(), Fault> {
        let most = most_records(self.segment_size_bytes);
        let lane = &mut self.lanes[index];
        let before: Vec<u64> = lane.streams.iter().map(|stream| stream.reserved).collect();
        for stream in &mut lane.streams {
            stream.reserved = stream.reserved.max(stream.next_seq + most);
        }
        let persisted = self.persist().await;
        if persisted.is_err() {
            // What is not on disk is not set aside.
            for (stream, reserved) in self.lanes[index].streams.iter_mut().zip(before) {
                stream.reserved = reserved;
            }
        }
        persisted
    }

    /// Makes room for one more segment of lane `index`.
    async fn make_room(&mut self, index: usize) -> Result<(), Fault> {
        loop {
            let bytes: u64 = self.lanes.iter().map(super::lane::Lane::bytes).sum();
            if bytes + self.segment_size_bytes <= self.max_size_bytes {
                return Ok(());
            }
            let Some(victim) = self.victim(index) else { return Ok(()) };
            self.evict(victim).await?;
        }
    }

    /// The lane that gives up its oldest segment: the least important one that holds more than its share; else
    /// the one that asks. Only lanes that have a segment to give are asked, the newest stays.
    fn victim(&self, asking: usize) -> Option<usize> {
        let gives = |&index: &usize| self.lanes[index].segments.len() > 1;
        let over = |&index: &usize| {
            let lane = &self.lanes[index];
            // What the asking lane is about to take counts as held.
            let wanted = if index == asking { self.segment_size_bytes } else { 0 };
            lane.bytes() + wanted > lane.options.share_bytes
        };
        let importance = |&index: &usize| self.lanes[index].options.importance;
        let all = || (0..self.lanes.len()).filter(gives);
        all()
            .filter(over)
            .min_by_key(importance)
            .or_else(|| Some(asking).filter(gives))
            .or_else(|| all().min_by_key(importance))
    }

    /// Drops the lane's oldest segment. What was not acknowledged in it is lost, exactly: the next segment's
    /// header says where each stream stood when it was made.
    async fn evict(&mut self, index: usize) -> Result<(), Fault> {
        let [oldest, next] = [0, 1].map(|at| self.lanes[index].segments[at].number);
        if self.lanes[index].cursor.segment <= oldest {
            self.lose_oldest(index, oldest, next).await;
            let lane = &mut self.lanes[index];
            lane.cursor = Position { segment: next, offset: FIRST_FRAME };
            lane.settle();
            self.cursor_moved();
        }
        self.release(index).await
    }

    /// Counts what is lost with the oldest segment.
    async fn lose_oldest(&mut self, index: usize, oldest: u64, next: u64) {
        let table = self.table_of(index, next).await;
        let lane = &mut self.lanes[index];
        let mut read = vec![0; lane.streams.len()];
        while let Some(mark) = lane.marks.pop_front_if(|mark| mark.position.segment <= oldest) {
            read[usize::from(mark.stream)] = mark.seq + 1;
        }
        if let Some(table) = table {
            for at in table {
                self.lose_before(index, usize::from(at.id), at.next_seq);
            }
            return;
        }
        // The next header is unreadable. All before the first record that a reader holds from a later segment is gone;
        // where there is none, the end of the loss is found as a gap when a reader gets there.
        for (id, read) in read.into_iter().enumerate() {
            let held = self.lanes[index].marks.iter().find(|mark| usize::from(mark.stream) == id).map(|mark| mark.seq);
            self.lose_before(index, id, held.unwrap_or(read));
            let stream = &mut self.lanes[index].streams[id];
            if held.is_none() {
                stream.accounted = stream.acked;
            }
        }
    }

    /// What was not acknowledged of a stream before `next_seq` goes with its segment.
    fn lose_before(&mut self, index: usize, id: usize, next_seq: u64) {
        let Some(stream) = self.lanes[index].streams.get_mut(id) else { return };
        let from = stream.acked;
        stream.acked = stream.acked.max(next_seq);
        stream.accounted = stream.accounted.max(next_seq);
        if from < next_seq {
            let count = self.lose(index, id, LossReason::Evicted, from, next_seq - 1);
            let lane = &mut self.lanes[index];
            lane.pending = lane.pending.saturating_sub(count);
        }
    }

    /// The streams listed in a segment's header, if that can be read.
    pub(super) async fn table_of(&mut self, index: usize, number: u64) -> Option<Vec<StreamAt>> {
        let path = self.segment_path(index, number);
        let header = match open_again(&self.storage, &path, self.direct).await {
            Ok(file) => {
                let read = read_again(&self.storage, &file, &self.pool, 0, BLOCK).await;
                self.storage.close(file).await;
                read.map(|block| header::decode(&block))
            }
            Err(error) => Err(error),
        };
        match header {
            Ok(Some(header)) => Some(header.streams),
            Ok(None) => {
                warn!(path = %path.display(), "a segment's header is damaged");
                None
            }
            Err(error) => {
                warn!(%error, path = %path.display(), "cannot read a segment's header");
                None
            }
        }
    }

    /// Removes segments that lie wholly before the cursor: first the cursor is made durable, then the files go,
    /// then the folder is synced. A crash in between leaves files that the next start removes.
    pub(super) async fn release(&mut self, index: usize) -> Result<(), Fault> {
        if self.lanes[index].delivered_segment().is_none() {
            return Ok(());
        }
        self.persist().await?;
        while let Some(number) = self.lanes[index].delivered_segment() {
            if let Some(reader) = self.lanes[index].reader.take_if(|reader| reader.segment == number) {
                self.storage.close(reader.file).await;
            }
            let path = self.segment_path(index, number);
            match self.storage.remove(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).at("unlink", &path);
                }
                _gone => {
                    self.lanes[index].segments.pop_front();
                }
            }
        }
        let dir = &self.lanes[index].dir;
        self.storage.sync_dir(dir).await.at("fsync", dir)
    }
}
