//! The meta file: kept open, its two slots written in turn.

use std::path::{Path, PathBuf};

use super::{Engine, ledger::Range, read::read_again};
use tidegate_storage::{Access, Pool, Storage};

use crate::{
    fault::{At as _, Fault},
    format::{
        BLOCK,
        meta::{self, LossMeta, Meta, SLOT},
    },
};

pub(super) struct Checkpoint<F> {
    file: F,
    path: PathBuf,
    generation: u64,
}

impl<F> Checkpoint<F> {
    /// Opens the file, or makes it, and reads the newer valid slot.
    pub(super) async fn open<S: Storage<File = F>>(
        storage: &S,
        dir: &Path,
        pool: &Pool,
    ) -> Result<(Self, Option<Meta>), Fault> {
        let path = dir.join("meta");
        let exists = storage.list(dir).await.at("read", dir)?.iter().any(|file| file.name == "meta");
        let access = if exists { Access::Write } else { Access::Create };
        let file = storage.open(&path, access, false).await.at("open", &path)?;
        // A file whose making was interrupted is mended by this, a whole one is unchanged.
        storage.allocate(&file, 2 * SLOT as u64).await.at("fallocate", &path)?;
        if !exists {
            storage.sync(&file).await.at("fdatasync", &path)?;
            storage.sync_dir(dir).await.at("fsync", dir)?;
        }
        let mut newest: Option<Meta> = None;
        for slot in 0..2 {
            // A slot that cannot be read is as good as a torn one.
            let read = read_again(storage, &file, pool, slot * SLOT as u64, SLOT).await;
            let found = read.ok().and_then(|buffer| meta::decode(&buffer));
            newest = newest.into_iter().chain(found).max_by_key(|meta| meta.generation);
        }
        let generation = newest.as_ref().map_or(0, |meta| meta.generation);
        Ok((Self { file, path, generation }, newest))
    }

    /// Writes the older slot. Where this fails the newer one still stands, and the next try writes the older
    /// one anew, data and all.
    async fn write<S: Storage<File = F>>(&mut self, storage: &S, pool: &Pool, bytes: &[u8]) -> Result<(), Fault> {
        let generation = self.generation + 1;
        let mut buffer = pool.take(bytes.len());
        buffer.extend(bytes);
        buffer.extend_zeros(bytes.len().next_multiple_of(BLOCK) - bytes.len());
        let (written, _buffer) = storage.write(&self.file, buffer, generation % 2 * SLOT as u64).await;
        written.at("write", &self.path)?;
        storage.sync(&self.file).await.at("fdatasync", &self.path)?;
        self.generation = generation;
        Ok(())
    }

    pub(super) async fn close<S: Storage<File = F>>(self, storage: &S) {
        storage.close(self.file).await;
    }
}

impl<S: Storage> Engine<S> {
    /// Makes cursors, losses and reserved sequences durable.
    pub(super) async fn persist(&mut self) -> Result<(), Fault> {
        let own = self.lanes.iter().map(super::lane::Lane::to_meta);
        let loss = |range: &Range| LossMeta {
            id: range.id,
            lane: u16::try_from(range.lane).expect("at most 8 lanes"),
            stream: u16::try_from(range.stream).expect("at most 36 streams"),
            reason: range.reason,
            from_seq: range.from_seq,
            to_seq: range.to_seq,
            count: range.count,
        };
        let mut meta = Meta {
            generation: self.checkpoint.generation + 1,
            epoch: self.epoch,
            next_loss: self.ledger.next_id,
            lanes: own.chain(self.strangers.iter().cloned()).collect(),
            losses: self.ledger.ranges.iter().map(loss).collect(),
        };
        let mut bytes = meta::encode(&meta);
        while bytes.len() > SLOT && meta.lanes.len() > self.lanes.len() {
            // Own lanes always fit; of those that the options no longer name, some have to be forgotten.
            meta.lanes.pop();
            self.strangers.pop();
            bytes = meta::encode(&meta);
        }
        self.checkpoint.write(&self.storage, &self.pool, &bytes).await?;
        self.cursor_due = None;
        Ok(())
    }
}
