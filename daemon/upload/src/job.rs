//! A file that is to be uploaded, and what is known of it from one attempt to the next.

use std::{fs::File, path::PathBuf};

use tokio::time::Instant;

use crate::{
    journal::Journal,
    outbox::{Identity, Priority},
    trouble::{Kind, Trouble},
};

/// A file on its way.
pub(crate) struct Job {
    /// The outbox.
    pub(crate) outbox: PathBuf,
    /// The file's name in it.
    pub(crate) name: String,
    /// What makes it this file.
    pub(crate) identity: Identity,
    /// Opens the file of that name, whatever it is by now.
    pub(crate) open: Box<dyn Fn() -> Result<File, Trouble>>,
    /// Which files go first.
    pub(crate) priority: Priority,
    /// What its sidecar says of its type.
    pub(crate) content_type: Option<String>,
    /// What its sidecar says besides.
    pub(crate) metadata: Vec<(String, String)>,
    /// The sidecar that said so.
    pub(crate) sidecar: Option<Identity>,
    /// Where its journal is or will be.
    pub(crate) journal_path: PathBuf,
    /// Its journal, once it was begun or read.
    pub(crate) journal: Option<Journal>,
    /// What the file was when its content was last compared with the journal's; `None`: it was not.
    pub(crate) compared: Option<Identity>,
    /// Until when the server keeps what it has of it, as it said.
    pub(crate) expires: Option<String>,
    /// Up to where bytes were handed to a connection in the last attempt, as they are sent.
    pub(crate) sent_end: Option<u64>,
    /// The farthest that it ever was since the process started; `None`: it was begun by another one.
    pub(crate) farthest: Option<u64>,
    /// Attempts so far.
    pub(crate) attempts: u32,
    /// The last trouble's kind, and how many of it came in a row without progress between.
    pub(crate) in_a_row: Option<(Kind, u32)>,
    /// Times that the server forgot it, since it was last seen to remember.
    pub(crate) forgotten: u32,
    /// The last trouble, for a person.
    pub(crate) last_error: Option<String>,
    /// Bytes of bodies that connections took.
    pub(crate) sent_bytes: u64,
    /// When its first attempt began.
    pub(crate) begun: Option<Instant>,
}

impl Job {
    /// No file: for requests that are about none.
    pub(crate) fn nobody() -> Self {
        let identity = Identity { dev: 0, ino: 0, size: 0, mtime_ns: 0, ctime_ns: 0 };
        let absent = || Err(Trouble::new(Kind::Vanished, "there is no file"));
        Self::new(PathBuf::new(), String::new(), identity, Box::new(absent), PathBuf::new())
    }

    /// A file that nothing was done with yet.
    pub(crate) fn new(
        outbox: PathBuf,
        name: String,
        identity: Identity,
        open: Box<dyn Fn() -> Result<File, Trouble>>,
        journal_path: PathBuf,
    ) -> Self {
        Self {
            outbox,
            name,
            identity,
            open,
            priority: Priority::Normal,
            content_type: None,
            metadata: Vec::new(),
            sidecar: None,
            journal_path,
            journal: None,
            compared: None,
            expires: None,
            sent_end: None,
            farthest: None,
            attempts: 0,
            in_a_row: None,
            forgotten: 0,
            last_error: None,
            sent_bytes: 0,
            begun: None,
        }
    }

    /// Whether the file is still there and has the same content.
    ///
    /// # Errors
    ///
    /// [`Kind::Vanished`], [`Kind::Changed`], or why that cannot be seen.
    pub(crate) fn is_there(&self) -> Result<(), Trouble> {
        use std::os::fd::AsFd as _;
        let now = Identity::of((self.open)()?.as_fd());
        match now {
            Ok(now) if now.same_content(&self.identity) => Ok(()),
            _ => Err(Trouble::new(Kind::Changed, "the file was changed before it had arrived")),
        }
    }

    /// Counts a trouble; how many of its kind there were in a row. That an upload is cut off, or gets somewhere, before the server
    /// forgets it once more is no end of such a row.
    pub(crate) fn failed(&mut self, trouble: &Trouble, progressed: bool) -> u32 {
        let before =
            self.in_a_row.filter(|(kind, _)| *kind == trouble.kind && !progressed).map_or(0, |(_, count)| count);
        let mut count = before + 1;
        if trouble.kind == Kind::Forgotten {
            self.forgotten += 1;
            count = count.max(self.forgotten);
        }
        self.in_a_row = Some((trouble.kind, count));
        self.last_error = Some(trouble.text.clone());
        count
    }
}
