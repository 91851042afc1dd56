//! One attempt to bring a file to its endpoint, from what the server has to all of it.
//!
//! ```text
//!   digest (once) ──► begin, or ask how far ──► parts … ──► all of it ──► read back (if asked)
//!        │                     │                   │
//!   no longer the same     forgotten           cut off, refused, silent
//!        ▼                     ▼                   ▼
//!      park                 restart              again
//! ```
//!
//! What follows from a trouble is decided by whoever starts attempts ([`Kind::verdict`]).

mod content;
mod put;
mod read_back;
mod send;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
mod tus;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use http::Uri;
use tidegate_storage::Backend;
use tokio::time::Instant;

use crate::{
    codec::FRAME_BYTES,
    http::{Connection, Tls},
    job::Job,
    journal::Journal,
    pacing::Pacing,
    part::PartSize,
    producer::Cursor,
    progress::Progress,
    settings::{Protocol, Settings},
    slots::Slots,
    source::Source,
    trouble::{Kind, Trouble},
    tus::Abilities,
};

/// What is known of a server, for all attempts.
#[derive(Debug, Default)]
pub(crate) struct Server {
    /// What it can do, once it was asked.
    abilities: Option<Abilities>,
    /// It says that a length may come last, and refuses it.
    wants_length: bool,
    /// How TLS is spoken with it.
    tls: Rc<Tls>,
    /// How much goes into one request.
    part: PartSize,
    /// Troubles so far, by name.
    pub(crate) troubles: BTreeMap<&'static str, u64>,
    /// Bytes that went more than once.
    pub(crate) resent_bytes: u64,
    /// Bytes of bodies that connections took.
    pub(crate) sent_bytes: u64,
}

impl Server {
    pub(crate) fn count(&mut self, kind: Kind) {
        *self.troubles.entry(kind.name()).or_default() += 1;
    }

    /// Asks what the server can do before the next attempt.
    pub(crate) const fn ask_again(&mut self) {
        self.abilities = None;
    }

    /// Forgets what was learnt, but not what was counted: the endpoint is another one.
    pub(crate) fn forget(&mut self) {
        (self.abilities, self.wants_length, self.part) = (None, false, PartSize::default());
    }
}

/// What an attempt works with.
pub(crate) struct Attempt<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) endpoint: &'a Uri,
    pub(crate) backend: Backend,
    pub(crate) job: &'a mut Job,
    pub(crate) server: &'a RefCell<Server>,
    pub(crate) pacing: &'a Pacing,
    pub(crate) progress: &'a Progress,
    /// Whether another file is to go first: looked at between two parts.
    pub(crate) yields: &'a Cell<bool>,
    connection: Option<Connection>,
    slots: Slots,
    /// Bytes of pieces that are in the accounts already.
    accounted: u64,
    unsynced: u64,
    progressed: bool,
}

/// How an attempt ended.
pub(crate) struct Ended {
    pub(crate) result: Result<Arrived, Trouble>,
    /// Whether the server has more than before.
    pub(crate) progressed: bool,
}

/// How an attempt ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// The server has all of it.
    Whole,
    /// Another file is to go first.
    Yielded,
}

impl<'a> Attempt<'a> {
    #[expect(clippy::too_many_arguments, reason = "what an attempt works with, each by its name at the only caller")]
    pub(crate) fn new(
        settings: &'a Settings,
        endpoint: &'a Uri,
        backend: Backend,
        job: &'a mut Job,
        server: &'a RefCell<Server>,
        pacing: &'a Pacing,
        progress: &'a Progress,
        yields: &'a Cell<bool>,
    ) -> Self {
        Self {
            settings,
            endpoint,
            backend,
            job,
            server,
            pacing,
            progress,
            yields,
            connection: None,
            slots: Slots::new(),
            accounted: 0,
            unsynced: 0,
            progressed: false,
        }
    }

    /// Makes the attempt; `None`: it was told to stop.
    pub(crate) async fn run(mut self, stopped: impl Future<Output = ()>) -> Option<Ended> {
        self.job.attempts += 1;
        self.job.begun.get_or_insert_with(Instant::now);
        let source = match (self.job.open)().and_then(|file| Source::new(self.backend, file, self.job.identity)) {
            Ok(source) => source,
            Err(trouble) => return Some(Ended { result: Err(trouble), progressed: false }),
        };
        let result = tokio::select! {
            result = self.bring(&source) => Some(result),
            () = stopped => None,
        };
        // Of a request that was stopped: the server may have all of that, and will say so.
        self.account();
        // Before the body's feeder is gone: see `Pieces`.
        self.connection = None;
        source.close().await;
        let progressed = self.progressed;
        result.map(|result| Ended { result, progressed })
    }

    async fn bring(&mut self, source: &Source) -> Result<Arrived, Trouble> {
        self.open_journal();
        let arrived = match self.settings.protocol {
            Protocol::Tus => self.by_tus(source).await?,
            Protocol::Http => self.by_put(source).await?,
        };
        // What was read last was read before this: a file that was changed since is not what arrived.
        source.check()?;
        Ok(arrived)
    }

    /// What the upload is, for the journal: another target is another upload.
    fn target(&self) -> String {
        let protocol = match self.settings.protocol {
            Protocol::Tus => "tus",
            Protocol::Http => "http",
        };
        format!("{protocol} {}", self.endpoint)
    }

    /// Goes on with the journal that there is, if it is of this upload.
    fn open_journal(&mut self) {
        if self.job.journal.is_none() {
            match Journal::open(&self.job.journal_path) {
                Ok(journal) => self.job.journal = journal,
                Err(error) => tracing::warn!(%error, name = self.job.name, "the journal of an upload cannot be read"),
            }
        }
        let fits = self.job.journal.as_ref().is_none_or(|journal| {
            let begin = &journal.known().begin;
            begin.identity.same_content(&self.job.identity)
                && begin.name == self.job.name
                && begin.target == self.target()
                && usize::try_from(begin.frame_bytes) == Ok(FRAME_BYTES)
                && begin.encoding().is_some()
        });
        if !fits {
            self.job.journal = None;
        }
    }
}

pub(super) const fn content_before(cursor: &Cursor) -> u64 {
    cursor.index * FRAME_BYTES as u64
}
