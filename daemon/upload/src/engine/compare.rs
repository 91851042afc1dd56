//! Whether a file that was touched (`chmod`, a link to it) still has the content that was begun to be sent.
//!
//! Length and time of the last change say so as well, but whoever writes to a file may set its time to what it was. So the
//! content is read once and its SHA-256 compared: what the server has of it need not be sent again.

use ring::digest;
use tidegate_storage::Backend;
use tidegate_values::Digest;

use crate::{
    job::Job,
    journal::Journal,
    progress::Progress,
    slots::Slots,
    source::Source,
    status::Step,
    trouble::{Kind, Trouble},
};

/// Compares, where there is a doubt and it was not compared as it is now.
///
/// # Errors
///
/// [`Kind::FrameDiffers`] where it has another content; that it changes, or cannot be read.
pub(super) async fn compare(job: &mut Job, backend: Backend, progress: &Progress) -> Result<(), Trouble> {
    if job.journal.is_none() {
        // One that cannot be read is told of by the attempt.
        job.journal = Journal::open(&job.journal_path).unwrap_or_default();
    }
    let Some(begin) = job.journal.as_ref().map(|journal| &journal.known().begin) else { return Ok(()) };
    let known = job.compared.as_ref().unwrap_or(&begin.identity);
    // With another length, time or number it is no part of that upload, as the attempt will see.
    if known.ctime_ns == job.identity.ctime_ns || !begin.identity.same_content(&job.identity) {
        return Ok(());
    }
    progress.step.set(Step::Digesting);
    let source = Source::new(backend, (job.open)()?, job.identity)?;
    let digested = digested(&source).await;
    source.close().await;
    if digested? != begin.sha256 {
        let text = "the file has another content than when its upload was begun, though its time says otherwise";
        return Err(Trouble::new(Kind::FrameDiffers, text));
    }
    progress.step.set(Step::Asking);
    job.compared = Some(job.identity);
    Ok(())
}

async fn digested(source: &Source) -> Result<Digest, Trouble> {
    let slots = Slots::new();
    let mut context = digest::Context::new(&digest::SHA256);
    for index in 0..source.frames() {
        let mut slot = slots.take().await;
        source.read(index, &mut slot).await?;
        context.update(slot.buffer());
        // Others send meanwhile.
        tokio::task::yield_now().await;
    }
    Ok(Digest(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")))
}
