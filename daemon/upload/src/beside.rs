//! Encodes frames on a thread of its own, while the upload's thread sends the one before.
//!
//! ```text
//!   upload ──► todo (content, and a buffer to encode it into) ──► tg-encode
//!          ◄── made (that buffer) ◄──────────────────────────────
//! ```
//!
//! One frame at a time goes over the [`Desk`], in buffers that go round anyway ([`crate::slots`]): nothing is allocated on the way.
//! The thread lives as long as its [`Worker`], and a frame longer at most, for which nobody waits. What it makes for somebody who has
//! gone meanwhile is thrown away.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::Notify;
use tracing::debug;

use crate::{
    codec::{Encoder, Encoding},
    slots::Slotted,
};

/// Stack of the thread; contexts and frames are on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// The encoder of one upload.
pub(crate) struct Worker {
    encoding: Encoding,
    version: u32,
    place: Place,
}

enum Place {
    /// Where there is nothing to encode, or no thread to be had.
    Here(Encoder),
    Beside(Arc<Desk>),
}

/// What lies between the two threads.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    given: Condvar,
    made: Notify,
}

#[derive(Default)]
struct State {
    /// Counts up with each frame that is no longer waited for.
    turn: u64,
    todo: Option<(Slotted, Slotted)>,
    made: Option<io::Result<Slotted>>,
    /// One of the two is gone.
    ended: bool,
}

impl Worker {
    /// An encoder, with a thread where it does something.
    ///
    /// # Errors
    ///
    /// As [`Encoder::new`] and [`Encoder::version`].
    pub(crate) fn start(encoding: Encoding) -> io::Result<Self> {
        let mut encoder = Encoder::new(encoding)?;
        let version = encoder.version()?;
        if encoding.is_identity() {
            return Ok(Self { encoding, version, place: Place::Here(encoder) });
        }
        let desk = Arc::new(Desk::default());
        let theirs = Arc::clone(&desk);
        let thread = thread::Builder::new().name("tg-encode".to_owned()).stack_size(STACK_BYTES);
        let place = match thread.spawn(move || theirs.work(encoder)) {
            Ok(_runs_by_itself) => Place::Beside(desk),
            Err(error) => {
                debug!(%error, "no thread to encode on: it is done between writes");
                Place::Here(Encoder::new(encoding)?)
            }
        };
        Ok(Self { encoding, version, place })
    }

    /// How it encodes.
    pub(crate) const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// As [`Encoder::version`].
    pub(crate) const fn version(&self) -> u32 {
        self.version
    }

    /// Encodes the content of one buffer, which is free then, into another one.
    ///
    /// # Errors
    ///
    /// As [`Encoder::encode`], and where the thread has ended in a way that it should not.
    pub(crate) async fn encode(&mut self, content: Slotted, out: Slotted) -> io::Result<Slotted> {
        match &mut self.place {
            Place::Here(encoder) => encoded(encoder, content, out),
            Place::Beside(desk) => {
                let awaited = Awaited::of(desk, content, out);
                loop {
                    if let Some(made) = awaited.taken() {
                        return made;
                    }
                    // Whoever makes it between the two lines leaves a permit.
                    desk.made.notified().await;
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Place::Beside(desk) = &self.place {
            desk.state().ended = true;
            desk.given.notify_one();
        }
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does.
    fn work(&self, mut encoder: Encoder) {
        let _until_the_end = Working(self);
        while let Some((turn, content, out)) = self.next() {
            let made = encoded(&mut encoder, content, out);
            let mut state = self.state();
            if state.turn == turn {
                state.made = Some(made);
                drop(state);
                self.made.notify_one();
            }
        }
    }

    fn next(&self) -> Option<(u64, Slotted, Slotted)> {
        let mut state = self.state();
        loop {
            if state.ended {
                return None;
            }
            if let Some((content, out)) = state.todo.take() {
                return Some((state.turn, content, out));
            }
            state = self.given.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells whoever waits that nothing will come, also after a panic.
struct Working<'a>(&'a Desk);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ended = true;
        let _not_begun = state.todo.take();
        drop(state);
        self.0.made.notify_one();
    }
}

/// A frame that somebody waits for.
struct Awaited<'a>(&'a Desk);

impl<'a> Awaited<'a> {
    fn of(desk: &'a Desk, content: Slotted, out: Slotted) -> Self {
        desk.state().todo = Some((content, out));
        desk.given.notify_one();
        Self(desk)
    }

    fn taken(&self) -> Option<io::Result<Slotted>> {
        let mut state = self.0.state();
        let made = state.made.take();
        made.or_else(|| state.ended.then(|| Err(io::Error::other("the thread that encodes has ended"))))
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.turn += 1;
        let _given_up = (state.todo.take(), state.made.take());
    }
}

fn encoded(encoder: &mut Encoder, mut content: Slotted, mut out: Slotted) -> io::Result<Slotted> {
    let room = out.buffer().capacity();
    out.buffer().set_len(room);
    let length = encoder.encode(content.buffer(), out.buffer().as_mut())?;
    out.buffer().set_len(length);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, pin::pin, task::Context, time::Duration};

    use tokio::time::timeout;

    use super::*;
    use crate::{
        codec::{Coding, FRAME_BYTES},
        slots::Slots,
    };

    const GZIP: Encoding = Encoding { coding: Coding::Gzip, level: 9 };

    async fn frame(slots: &Slots, seed: u64) -> Slotted {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut slot = slots.take().await;
        slot.buffer().set_len(FRAME_BYTES);
        slot.buffer().as_mut().fill_with(|| random.u8(b'a'..b'f'));
        slot
    }

    /// What comes out without a thread.
    fn expected(seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(b'a'..b'f')).take(FRAME_BYTES).collect();
        let mut out = vec![0; crate::codec::MOST_ENCODED_BYTES];
        let length = Encoder::new(GZIP).unwrap().encode(&content, &mut out).unwrap();
        out.truncate(length);
        out
    }

    fn desk(worker: &Worker) -> Arc<Desk> {
        let Place::Beside(desk) = &worker.place else { panic!("no thread") };
        Arc::clone(desk)
    }

    #[tokio::test]
    async fn frames_are_the_same_as_without_a_thread_also_behind_one_that_was_given_up() {
        let slots = Slots::new();
        let mut worker = Worker::start(GZIP).unwrap();
        for seed in 0..12 {
            let (content, out) = (frame(&slots, seed).await, slots.take().await);
            let mut encoding = pin!(worker.encode(content, out));
            if seed % 3 == 0 {
                // Begun, and dropped: at once, or when the thread is at it.
                assert!(encoding.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
                thread::sleep(Duration::from_millis(seed));
                continue;
            }
            assert!(encoding.await.unwrap().buffer()[..] == expected(seed)[..], "{seed}");
        }
    }

    #[tokio::test]
    async fn the_thread_ends_with_its_worker() {
        let slots = Slots::new();
        let mut worker = Worker::start(GZIP).unwrap();
        let (content, out) = (frame(&slots, 1).await, slots.take().await);
        let desk = desk(&worker);
        {
            let mut encoding = pin!(worker.encode(content, out));
            assert!(encoding.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        }
        drop(worker);
        let ended = async {
            while Arc::strong_count(&desk) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // And with it what it had: all buffers are free again.
            (slots.take().await, slots.take().await, slots.take().await)
        };
        timeout(Duration::from_secs(10), ended).await.expect("it ends");
    }

    #[tokio::test]
    async fn a_panic_on_the_thread_is_an_error_and_nobody_hangs() {
        let slots = Slots::new();
        let mut worker = Worker::start(GZIP).unwrap();
        for _ in 0..2 {
            let (mut content, out) = (slots.take().await, slots.take().await);
            // There is no such content.
            drop(content.take_buffer());
            let ended = timeout(Duration::from_secs(10), worker.encode(content, out)).await.expect("it ends");
            assert!(ended.is_err());
        }
        timeout(Duration::from_secs(10), async { (slots.take().await, slots.take().await, slots.take().await) })
            .await
            .expect("all buffers are free again");
    }

    #[test]
    fn there_is_no_thread_where_there_is_nothing_to_encode() {
        assert!(matches!(Worker::start(Encoding::IDENTITY).unwrap().place, Place::Here(_)));
    }
}
