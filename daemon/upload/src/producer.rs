//! From content to what is sent: reads frames, encodes them, records them, and cuts off what the server has already.

use std::ops::Range;

use crate::{
    beside::Worker,
    journal::{Frame, Journal},
    slots::{Slots, Slotted},
    source::Source,
    trouble::{Kind, Trouble},
};

/// Where sending goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The frame.
    pub(crate) index: u64,
    /// Bytes of it, as it is sent, that the server has.
    pub(crate) skip: u64,
}

/// Makes what is sent.
pub(crate) struct Producer<'a> {
    pub(crate) source: &'a Source,
    pub(crate) slots: &'a Slots,
    pub(crate) encoder: &'a mut Worker,
    pub(crate) journal: &'a mut Journal,
    /// Bytes of content since the journal was synced.
    pub(crate) unsynced: &'a mut u64,
}

/// A frame to be sent, or what is left of it.
pub(crate) struct Made {
    /// Which.
    pub(crate) index: u64,
    pub(crate) slot: Slotted,
    /// Of the slot's buffer.
    pub(crate) range: Range<usize>,
}

impl Producer<'_> {
    /// Frame `index` as it is sent; `None` behind the last one.
    ///
    /// # Errors
    ///
    /// The file is not what it was; or the frame is another one than was recorded.
    pub(crate) async fn frame(&mut self, index: u64) -> Result<Option<Slotted>, Trouble> {
        if index >= self.source.frames() {
            return Ok(None);
        }
        let as_it_is = self.encoder.encoding().is_identity();
        let mut content = self.slots.take_leaving(usize::from(as_it_is)).await;
        self.source.read(index, &mut content).await?;
        // What is cached is there at once: others want their turn, too.
        tokio::task::yield_now().await;
        if as_it_is {
            return Ok(Some(content));
        }
        let length = content.buffer().len();
        let mut encoded = encoded(self.slots, self.encoder, content).await?;
        self.record(index, Frame::of(encoded.buffer()), length)?;
        Ok(Some(encoded))
    }

    /// Writes down what frame `index` is before it is sent, or compares it with what was written down.
    fn record(&mut self, index: u64, frame: Frame, content: usize) -> Result<(), Trouble> {
        if let Some(before) = self.journal.expected(index)
            && before != frame
        {
            let text =
                format!("frame {index} comes out with {} bytes, and was sent with {}", frame.length, before.length);
            return Err(Trouble::new(Kind::FrameDiffers, text));
        }
        let mut written = self.journal.frame(index, frame);
        *self.unsynced += content as u64;
        if *self.unsynced >= crate::journal::SYNC_BYTES {
            *self.unsynced = 0;
            written = written.and_then(|()| self.journal.sync());
        }
        if let Err(error) = written {
            // The upload goes on: what is not written down can be made again, and sending files is what makes room.
            tracing::debug!(%error, "the journal of an upload cannot be written");
        }
        Ok(())
    }

    /// What is left to send at `cursor`, which moves on to the next frame.
    ///
    /// # Errors
    ///
    /// As [`Self::frame`].
    pub(crate) async fn next(&mut self, cursor: &mut Cursor) -> Result<Option<Made>, Trouble> {
        while let Some(mut slot) = self.frame(cursor.index).await? {
            let length = slot.buffer().len();
            let skip = usize::try_from(cursor.skip).unwrap_or(usize::MAX).min(length);
            let index = cursor.index;
            *cursor = Cursor { index: index + 1, skip: 0 };
            if skip < length {
                return Ok(Some(Made { index, slot, range: skip..length }));
            }
        }
        Ok(None)
    }
}

/// The content of a buffer, encoded into another one.
pub(crate) async fn encoded(slots: &Slots, encoder: &mut Worker, content: Slotted) -> Result<Slotted, Trouble> {
    let out = slots.take().await;
    let made = encoder.encode(content, out).await;
    made.map_err(|error| Trouble::new(Kind::Unreadable, format!("cannot be compressed: {error}")))
}
