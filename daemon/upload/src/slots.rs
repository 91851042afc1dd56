//! The memory of an upload: a fixed number of buffers that go round, from the disk through the encoder to the connection.
//!
//! A filled buffer is cut into [`Piece`]s of at most 64 KiB, which is what one write to a socket takes. When the last piece
//! of a buffer has been written, the buffer is free again; until then whoever wants one waits. Nothing is allocated on the way.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Buf;
use tidegate_storage::{Buffer, Pool};
use tokio::sync::Notify;

use crate::codec::MOST_ENCODED_BYTES;

/// Buffers of an upload: while the pieces of one are on their way, the next frame is read into another, and encoded from there into
/// the third. A frame that is sent as it is leaves that one alone.
const SLOTS: usize = 3;
/// Most bytes of one piece.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// The buffers of one upload.
pub(crate) struct Slots {
    home: Arc<Home>,
    pool: Pool,
}

/// Where buffers go when they are free, and what their bytes are counted by.
struct Home {
    free: Mutex<Vec<Arc<Slot>>>,
    freed: Notify,
    written: AtomicU64,
}

struct Slot {
    /// `None` while it is being read into, and where such a read was given up.
    buffer: Option<Buffer>,
}

/// A buffer that nobody else has.
pub(crate) struct Slotted {
    slot: Option<Arc<Slot>>,
    home: Arc<Home>,
}

/// A part of a buffer, to be written.
pub(crate) struct Piece {
    slot: Option<Arc<Slot>>,
    home: Arc<Home>,
    start: usize,
    end: usize,
}

impl Slots {
    pub(crate) fn new() -> Self {
        let free = (0..SLOTS).map(|_| Arc::new(Slot { buffer: None })).collect();
        let home = Home { free: Mutex::new(free), freed: Notify::new(), written: AtomicU64::new(0) };
        Self { home: Arc::new(home), pool: Pool::keeping(SLOTS, MOST_ENCODED_BYTES) }
    }

    /// A free buffer, once there is one.
    pub(crate) async fn take(&self) -> Slotted {
        self.take_leaving(0).await
    }

    /// A free buffer, once there are more than `left` of them: whoever leaves one never needs its memory.
    pub(crate) async fn take_leaving(&self, left: usize) -> Slotted {
        loop {
            let free = {
                let mut free = self.home.free();
                if free.len() > left { free.pop() } else { None }
            };
            let Some(mut slot) = free else {
                // Whoever frees one between the two lines leaves a permit.
                self.home.freed.notified().await;
                continue;
            };
            let only = Arc::get_mut(&mut slot).expect("who gives a slot back has no other");
            if only.buffer.is_none() {
                only.buffer = Some(self.pool.take(MOST_ENCODED_BYTES));
            }
            return Slotted { slot: Some(slot), home: Arc::clone(&self.home) };
        }
    }

    /// Bytes of pieces that connections have taken so far.
    pub(crate) fn written(&self) -> u64 {
        self.counter()()
    }

    /// Tells the same to somebody who does not have the buffers.
    pub(crate) fn counter(&self) -> impl Fn() -> u64 + use<> {
        let home = Arc::clone(&self.home);
        move || home.written.load(Ordering::Relaxed)
    }
}

impl Home {
    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Slot>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, slot: Option<Arc<Slot>>) {
        // The last one of its pieces.
        if let Some(slot) = slot.filter(|slot| Arc::strong_count(slot) == 1) {
            self.free().push(slot);
            self.freed.notify_one();
        }
    }
}

impl Slotted {
    fn slot(&mut self) -> &mut Slot {
        let slot = self.slot.as_mut().expect("taken at its end only");
        Arc::get_mut(slot).expect("pieces are made at its end only")
    }

    /// The buffer, for an operation that wants it by value; [`Self::put_back`] ends that.
    pub(crate) fn take_buffer(&mut self) -> Buffer {
        self.slot().buffer.take().expect("it is put back before it is taken again")
    }

    pub(crate) fn put_back(&mut self, buffer: Buffer) {
        self.slot().buffer = Some(buffer);
    }

    /// The buffer.
    pub(crate) fn buffer(&mut self) -> &mut Buffer {
        self.slot().buffer.as_mut().expect("it was put back")
    }

    /// Cuts what the buffer holds from `start` to `end` into pieces.
    pub(crate) fn pieces(mut self, start: usize, end: usize) -> impl Iterator<Item = Piece> {
        let slot = self.slot.take();
        let home = Arc::clone(&self.home);
        let mut rest = Piece { slot, home, start, end };
        std::iter::from_fn(move || {
            let length = rest.remaining().min(PIECE_BYTES);
            if length == 0 {
                return None;
            }
            Some(rest.split_to(length))
        })
    }
}

impl Piece {
    /// Cuts off its first `count` bytes.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        let start = self.start;
        self.start += count.min(self.remaining());
        Self { slot: self.slot.clone(), home: Arc::clone(&self.home), start, end: self.start }
    }
}

impl Drop for Slotted {
    fn drop(&mut self) {
        let slot = self.slot.take();
        self.home.give_back(slot);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let slot = self.slot.take();
        self.home.give_back(slot);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.end - self.start
    }

    fn chunk(&self) -> &[u8] {
        let buffer = self.slot.as_ref().and_then(|slot| slot.buffer.as_ref());
        buffer.map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "{count} of {}", self.remaining());
        self.start += count;
        self.home.written.fetch_add(count as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn filled(slots: &Slots, byte: u8, length: usize) -> Slotted {
        let mut slot = slots.take().await;
        slot.buffer().set_len(length);
        slot.buffer().as_mut().fill(byte);
        slot
    }

    #[tokio::test(start_paused = true)]
    async fn a_buffer_is_free_again_when_its_last_piece_is_written() {
        let slots = Slots::new();
        let mut held = Vec::new();
        for byte in 0..3 {
            held.push(filled(&slots, byte, 150_000).await.pieces(0, 150_000).collect::<Vec<_>>());
        }
        let short = Duration::from_millis(1);
        assert!(timeout(short, slots.take()).await.is_err(), "all are on their way");
        let mut pieces = held.pop().unwrap();
        assert_eq!(pieces.iter().map(Buf::remaining).collect::<Vec<_>>(), [65_536, 65_536, 18_928]);
        for piece in &mut pieces {
            assert!(piece.chunk().iter().all(|byte| *byte == 2));
            piece.advance(piece.remaining());
        }
        assert_eq!(slots.written(), 150_000);
        pieces.truncate(1);
        assert!(timeout(short, slots.take()).await.is_err());
        pieces.clear();
        assert!(timeout(short, slots.take()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_buffer_that_is_always_left_takes_no_memory() {
        let slots = Slots::new();
        let first = slots.take_leaving(1).await;
        let _second = slots.take_leaving(1).await;
        let short = Duration::from_millis(1);
        assert!(timeout(short, slots.take_leaving(1)).await.is_err());
        drop(first);
        assert!(timeout(short, slots.take_leaving(1)).await.is_ok());
        assert!(slots.home.free().iter().any(|slot| slot.buffer.is_none()));
    }

    #[tokio::test]
    async fn a_part_of_a_buffer_can_be_sent() {
        let slots = Slots::new();
        let mut slot = slots.take().await;
        slot.buffer().set_len(10);
        slot.buffer().as_mut().copy_from_slice(b"0123456789");
        let pieces: Vec<Piece> = slot.pieces(4, 9).collect();
        assert_eq!(pieces.iter().map(Buf::chunk).collect::<Vec<_>>(), [b"45678"]);
    }

    #[tokio::test]
    async fn a_buffer_whose_read_was_given_up_is_replaced() {
        let slots = Slots::new();
        for _ in 0..5 {
            let mut slot = slots.take().await;
            drop(slot.take_buffer());
        }
        for _ in 0..5 {
            assert_eq!(slots.take().await.buffer().capacity(), MOST_ENCODED_BYTES);
        }
    }
}
