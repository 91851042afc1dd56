//! Folders that local programs put files into, to be sent.
//!
//! Whoever may write there may do anything there at any moment: links, pipes and devices instead of files, names that
//! are no text, a file renamed over the one that is being sent, half a million of them. So names are never resolved
//! beyond one component of a folder that is held open, what was opened is looked at before it is read, nothing is kept
//! in memory for each file, and nothing is removed before it is known to be what was sent. What a program does to its
//! own files is its own business: it may lose those, but not another's.
//!
//! # What is taken
//!
//! A regular file with a name of UTF-8 without control characters. Its name stays as it is. Left alone are
//!
//! - names that begin with `.` or end with `.part`, `.partial`, `.tmp`, `.crdownload`, `.filepart` or `~`: not finished
//!   yet;
//! - sidecars, `NAME.meta.json`: they say something about `NAME` ([`sidecar`]). One that is to hold is there before
//!   `NAME` is;
//! - folders. `sent` is ours (`after = "move"`), and so is `.tidegate-sent` ([`finish()`]).
//!
//! # When it is taken
//!
//! At once where it was renamed in, which is how a program should do it: `NAME.part`, `fsync`, `rename`. Any other one
//! when it has not changed for a while ([`scan`]).

pub mod finish;
pub mod folder;
pub mod identity;
pub mod names;
pub mod scan;
pub mod sidecar;
pub mod watch;

pub use self::{
    finish::{Finished, finish, recover_leftovers},
    folder::{Folder, FolderError, Unusable},
    identity::Identity,
    scan::{Candidate, Moment, Scan, Scanner},
    sidecar::{Priority, Sidecar},
    watch::{Changes, Watch},
};

/// Does something as a user who owns nothing and may do nothing; `None` where these tests do not run as root, who alone
/// can.
#[cfg(test)]
pub(crate) fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    use rustix::{
        process::{Uid, geteuid},
        thread::set_thread_res_uid,
    };

    if !geteuid().is_root() {
        return None;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let nobody = Uid::from_raw(65_534);
            // Of this thread only: the other tests stay who they are.
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            work()
        });
        Some(thread.join().unwrap())
    })
}
