//! What is sent: how the content is encoded, what is written down of it before, and what goes with it.

use http::HeaderValue;
use ring::digest;
use tidegate_values::Digest;

use super::Attempt;
use crate::{
    beside::Worker,
    codec::{Encoding, FRAME_BYTES, shrinks},
    journal::{Begin, Journal, NOT_WORTH_A_SYNC},
    producer::{Producer, encoded},
    slots::{Slots, Slotted},
    source::Source,
    status::Step,
    trouble::{Kind, Trouble},
    tus,
};

impl Attempt<'_> {
    /// Begins a journal: digests the content, and decides how it is encoded. `planned`: its length as it is sent must be known.
    pub(super) async fn begin(&mut self, source: &Source, planned: bool) -> Result<Worker, Trouble> {
        self.progress.step.set(Step::Digesting);
        let new = |encoding| Worker::start(encoding).map_err(|error| codec_trouble(&error));
        let configured = if source.size() == 0 { Encoding::IDENTITY } else { Encoding::of(self.settings.compression) };
        let mut encoder = new(configured)?;
        // All of it is encoded for its length, but only if that will be its length.
        if planned && source.frames() > SAMPLES as u64 && !self.samples_shrink(source, &mut encoder).await? {
            encoder = new(Encoding::IDENTITY)?;
        }
        let all = planned || source.frames() <= 1;
        let mut context = digest::Context::new(&digest::SHA256);
        let mut tried = Tried::default();
        let mut to_try = None;
        for index in 0..source.frames() {
            let digested = async {
                let mut slot = self.slots.take().await;
                source.read(index, &mut slot).await?;
                context.update(slot.buffer());
                tokio::task::yield_now().await;
                Ok(slot)
            };
            // The frame before is encoded meanwhile: so it is handed over first.
            let ((), slot) = tokio::try_join!(tried.add(&self.slots, &mut encoder, to_try.take()), digested)?;
            let wanted = all || samples(source).contains(&index);
            to_try = Some(slot).filter(|_| wanted && !encoder.encoding().is_identity());
        }
        tried.add(&self.slots, &mut encoder, to_try).await?;
        if !encoder.encoding().is_identity() && !tried.shrink() {
            encoder = new(Encoding::IDENTITY)?;
        }
        let encoding = encoder.encoding();
        let length = if encoding.is_identity() { Some(source.size()) } else { all.then_some(tried.encoded) };
        let begin = Begin {
            outbox: self.job.outbox.clone(),
            name: self.job.name.clone(),
            identity: self.job.identity,
            sha256: Digest(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")),
            target: self.target(),
            coding: encoding.name().to_owned(),
            level: encoding.level,
            codec_version: encoder.version(),
            frame_bytes: u32::try_from(FRAME_BYTES).unwrap_or_default(),
            length,
        };
        let durable = source.size() > NOT_WORTH_A_SYNC;
        let journal = Journal::create(&self.job.journal_path, begin.clone(), durable).unwrap_or_else(|error| {
            self.server.borrow_mut().count(Kind::Journal);
            tracing::warn!(%error, name = self.job.name, "an upload is begun without a journal");
            Journal::in_memory(begin)
        });
        self.job.journal = Some(journal);
        self.job.farthest = Some(0);
        self.job.sent_end = None;
        Ok(encoder)
    }

    /// Whether samples of the content shrink.
    async fn samples_shrink(&self, source: &Source, encoder: &mut Worker) -> Result<bool, Trouble> {
        let mut tried = Tried::default();
        for index in samples(source) {
            let mut slot = self.slots.take().await;
            source.read(index, &mut slot).await?;
            tried.add(&self.slots, encoder, Some(slot)).await?;
        }
        Ok(tried.shrink())
    }

    /// The encoder of the journal that there is.
    ///
    /// # Errors
    ///
    /// It makes other bytes now than it did.
    pub(super) fn encoder(&self) -> Result<Worker, Trouble> {
        let begin = &self.journal().known().begin;
        let encoding = begin.encoding().unwrap_or(Encoding::IDENTITY);
        let encoder = Worker::start(encoding).map_err(|error| codec_trouble(&error))?;
        if encoder.version() == begin.codec_version {
            return Ok(encoder);
        }
        let text = format!("{} compresses in another way than when the upload was begun", encoding.name());
        Err(Trouble::new(Kind::FrameDiffers, text))
    }

    pub(super) fn journal(&self) -> &Journal {
        self.job.journal.as_ref().expect("it was begun")
    }

    /// What makes what is sent, with the journal that was begun.
    pub(super) fn producer<'b>(&'b mut self, source: &'b Source, encoder: &'b mut Worker) -> Producer<'b> {
        Producer {
            source,
            slots: &self.slots,
            encoder,
            journal: self.job.journal.as_mut().expect("it was begun"),
            unsynced: &mut self.unsynced,
        }
    }

    /// What goes with the file: what says what it is, then what its sidecar says.
    pub(super) fn metadata(&self) -> HeaderValue {
        let begin = &self.journal().known().begin;
        let sha256 = begin.sha256.to_string();
        let size = self.job.identity.size.to_string();
        let mtime = (self.job.identity.mtime_ns / 1_000_000_000).to_string();
        let content_type = self.job.content_type.as_deref();
        let encoding = (begin.coding != "identity").then_some(begin.coding.as_str());
        let ours = [
            Some(("filename", self.job.name.as_str())),
            content_type.map(|content_type| ("filetype", content_type)),
            Some(("sha256", sha256.as_str())),
            Some(("size", size.as_str())),
            encoding.map(|encoding| ("encoding", encoding)),
            Some(("gateway", self.settings.gateway.as_str())),
            Some(("mtime", mtime.as_str())),
        ];
        let theirs = self.job.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        tus::metadata(ours.into_iter().flatten().chain(theirs))
    }
}

/// Frames that are tried where not all are.
const SAMPLES: usize = 3;

/// Those: of the beginning, the middle and the end.
fn samples(source: &Source) -> [u64; SAMPLES] {
    let last = source.frames().saturating_sub(1);
    [0, last / 2, last]
}

/// What became of frames that were encoded to see what becomes of them.
#[derive(Default)]
struct Tried {
    content: u64,
    encoded: u64,
}

impl Tried {
    async fn add(&mut self, slots: &Slots, encoder: &mut Worker, frame: Option<Slotted>) -> Result<(), Trouble> {
        let Some(mut content) = frame else { return Ok(()) };
        self.content += content.buffer().len() as u64;
        self.encoded += encoded(slots, encoder, content).await?.buffer().len() as u64;
        Ok(())
    }

    const fn shrink(&self) -> bool {
        shrinks(self.content, self.encoded)
    }
}

fn codec_trouble(error: &std::io::Error) -> Trouble {
    Trouble::new(Kind::Unreadable, format!("cannot be compressed: {error}"))
}
