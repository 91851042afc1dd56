//! Acting as the owner of the state folder.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    process::{Gid, Uid, getegid, geteuid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

/// Does something in `folder` with the rights of its owner, where we are root and it is another's; else with our own.
///
/// The daemon's user could put a link in place of any file in its folder. With its own rights nothing can be made of
/// that, and what is written belongs to it. The thread's identity changes, not that of other threads: to be called
/// where there are none that count on it.
///
/// # Errors
///
/// The folder is not there, or those of `work`.
pub(super) fn as_owner_of<T>(folder: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let owner = fs::metadata(folder)?;
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    let (own_user, own_group) = (geteuid(), getegid());
    if !own_user.is_root() || user.is_root() {
        return work();
    }
    // The group first: the user may not change it.
    set_thread_res_gid(None, group, None)?;
    let done = set_thread_res_uid(None, user, None).map_err(io::Error::from).and_then(|()| work());
    // The real and the saved identity are still root's, which setresuid(2) lets back.
    set_thread_res_uid(None, own_user, None)?;
    set_thread_res_gid(None, own_group, None)?;
    done
}
