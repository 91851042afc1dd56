//! The way of a file into an outbox: nothing is seen of it there before all of it is on disk.
//!
//! ```text
//! .NAME.part            written, fsync
//! .NAME.meta.json.part  written, fsync ── rename ──► NAME.meta.json      what the daemon reads beside
//! .NAME.part            ── rename, never over another ──► NAME           from here on the daemon has it
//! ```
//!
//! Whatever ends this before the last step takes away what was made so far: an error, Ctrl-C ([`Undo`]). A power cut or kill -9
//! leaves a hidden file, which the next hand-over of that name replaces: nobody holds its lock any more.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{
        AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, RenameFlags, Timestamps, copy_file_range, fchmod, fchown,
        flock, fstatvfs, fsync, futimens, ioctl_ficlone, linkat, openat, renameat_with, statat, unlinkat,
    },
    io::Errno,
    time::Timespec,
};
use tidegate_upload::outbox::names::{MAX_NAME_BYTES, sidecar_of};

use super::PutError;

/// Bytes between two looks at how far it is.
const STEP: usize = 4 << 20;
/// Where the kernel does not copy by itself.
const BUFFER: usize = 256 << 10;
/// Readable to the daemon, which is a member of the outbox's group.
const MODE: u32 = 0o640;
/// Readable to everybody.
const OTHERS: u32 = 0o004;

/// An outbox that is open.
#[derive(Debug)]
pub(super) struct Outbox {
    folder: Arc<OwnedFd>,
    path: PathBuf,
    gid: u32,
    undo: Undo,
}

/// Where a file's content is.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// A regular file.
    Path(&'a Path),
    /// Whatever standard input is.
    Stdin,
}

/// A file on its way.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) source: Source<'a>,
    /// What it is called in the outbox; a name that may be sent.
    pub(super) name: &'a str,
    /// What `NAME.meta.json` is to hold.
    pub(super) sidecar: Option<&'a [u8]>,
    /// Whether it is taken away from where it is.
    pub(super) moves: bool,
}

impl Outbox {
    /// Opens a folder. What is unfinished in it goes with `undo`.
    pub(super) fn open(path: &Path, undo: Undo) -> Result<Self, PutError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
        let stat = rustix::fs::fstat(&folder).map_err(|errno| failed("stat", path, errno))?;
        Ok(Self { folder: Arc::new(folder), path: path.to_owned(), gid: stat.st_gid, undo })
    }

    /// Hands a file over; returns its size. `told` hears how many bytes are copied, and of how many.
    pub(super) fn take(&self, item: &Item, told: &mut dyn FnMut(u64, Option<u64>)) -> Result<u64, PutError> {
        if item.sidecar.is_some() && sidecar_of(item.name).len() > MAX_NAME_BYTES {
            return Err(PutError::Name { name: item.name.to_owned(), fault: "is too long for a sidecar" });
        }
        for name in [Some(item.name.to_owned()), item.sidecar.map(|_| sidecar_of(item.name))].into_iter().flatten() {
            // It is never renamed over; this says so before anything is copied.
            match statat(&*self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => return Err(PutError::Taken { name, outbox: self.path.clone() }),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("look into", &self.path, errno)),
            }
        }
        let bytes = Attempt { outbox: self }.run(item, told)?;
        fsync(&*self.folder).map_err(|errno| failed("write", &self.path, errno))?;
        Ok(bytes)
    }

    /// Whether something of that name is there.
    pub(super) fn holds(&self, name: &str) -> bool {
        statat(&*self.folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// One file's way. Dropped before its end, it leaves nothing.
struct Attempt<'a> {
    outbox: &'a Outbox,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.outbox.undo.all();
    }
}

impl Attempt<'_> {
    fn undo(&self) -> MutexGuard<'_, Vec<Made>> {
        self.outbox.undo.lock()
    }

    fn run(&self, item: &Item, told: &mut dyn FnMut(u64, Option<u64>)) -> Result<u64, PutError> {
        let outbox = self.outbox;
        let Source::Path(path) = item.source else {
            let part = self.create(item.name)?;
            let copied = copy_by_hand(&mut io::stdin().lock(), &part, &mut |done| told(done, None));
            let bytes = copied.map_err(|error| self.not_copied(None, &error))?;
            self.finish(item, &part)?;
            return Ok(bytes);
        };
        let of_source = |call| move |source| PutError::Source { call, path: path.to_owned(), source };
        let file = File::open(path).map_err(of_source("open"))?;
        let before = file.metadata().map_err(of_source("stat"))?;
        if item.moves && !is_link(path) && self.make_readable(&file, &before) {
            // What the daemon has is on disk, as what is copied is.
            file.sync_all().map_err(of_source("fsync"))?;
            self.sidecar(item)?;
            let mut made = self.undo();
            match renameat_with(CWD, path, &*outbox.folder, item.name, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    made.clear();
                    return Ok(before.len());
                }
                // Another file system, or one without such a rename: it is copied.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
                Err(Errno::EXIST) => return Err(self.taken(item.name)),
                Err(errno) => {
                    let source = io::Error::from(errno);
                    return Err(PutError::NotMoved { path: path.to_owned(), source });
                }
            }
            drop(made);
            outbox.undo.all();
        }

        let part = self.create(item.name)?;
        let cloned = ioctl_ficlone(&part, &file).is_ok();
        if !cloned {
            self.look_for_room(path, before.len())?;
            let copied = copy(&file, &part, &mut |done| told(done, Some(before.len())));
            copied.map_err(|error| self.not_copied(Some(path), &error))?;
        }
        let after = file.metadata().map_err(of_source("stat"))?;
        let stamp = |of: &std::fs::Metadata| (of.len(), of.mtime(), of.mtime_nsec());
        if stamp(&before) != stamp(&after) {
            return Err(PutError::Changed { path: path.to_owned() });
        }
        let mtime = Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
        // Where that is not possible, it is as old as its copy.
        let _younger = futimens(&part, &Timestamps { last_access: mtime, last_modification: mtime });
        if before.mode() & OTHERS != 0 {
            fchmod(&part, Mode::from_raw_mode(MODE | OTHERS))
                .map_err(|errno| failed("chmod in", &outbox.path, errno))?;
        }
        self.finish(item, &part)?;
        if item.moves {
            std::fs::remove_file(path).map_err(|source| PutError::NotRemoved { path: path.to_owned(), source })?;
        }
        Ok(before.len())
    }

    /// A hidden file for what will be `name`.
    fn create(&self, name: &str) -> Result<File, PutError> {
        let outbox = self.outbox;
        let hidden = hidden(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut made = self.undo();
        let part = match openat(&*outbox.folder, &hidden, flags, Mode::from_raw_mode(MODE)) {
            Err(Errno::EXIST) if outbox.is_left_over(&hidden) => unlinkat(&*outbox.folder, &hidden, AtFlags::empty())
                .and_then(|()| openat(&*outbox.folder, &hidden, flags, Mode::from_raw_mode(MODE))),
            created => created,
        };
        let part: File = match part {
            Ok(part) => part.into(),
            Err(Errno::EXIST) => return Err(PutError::UnderWay { name: name.to_owned(), hidden }),
            Err(errno) => return Err(failed("write to", &outbox.path, errno)),
        };
        made.push(Made { folder: Arc::clone(&outbox.folder), name: hidden });
        drop(made);
        // For as long as this lives: what is locked is no leftover.
        let _nobody_else_looks_yet = flock(&part, FlockOperation::NonBlockingLockExclusive);
        // The umask has had its say in the mode; the group is the folder's where the folder hands it on (setgid).
        fchmod(&part, Mode::from_raw_mode(MODE)).map_err(|errno| failed("chmod in", &outbox.path, errno))?;
        if part.metadata().is_ok_and(|made| made.gid() != outbox.gid) {
            // Else the daemon says that it may not read it.
            let _not_a_member = fchown(&part, None, Some(Gid::from_raw(outbox.gid)));
        }
        Ok(part)
    }

    /// Writes the sidecar and gives it its name.
    fn sidecar(&self, item: &Item) -> Result<(), PutError> {
        let Some(content) = item.sidecar else { return Ok(()) };
        let name = sidecar_of(item.name);
        let mut part = self.create(&name)?;
        part.write_all(content).and_then(|()| part.sync_all()).map_err(|error| self.not_copied(None, &error))?;
        self.rename(&name, false)
    }

    /// Has all of a file on disk, and gives it and its sidecar their names.
    fn finish(&self, item: &Item, part: &File) -> Result<(), PutError> {
        part.sync_all().map_err(|error| self.not_copied(None, &error))?;
        self.sidecar(item)?;
        self.rename(item.name, true)
    }

    /// Gives a hidden file its name; with the last one nothing can be undone any more.
    fn rename(&self, name: &str, last: bool) -> Result<(), PutError> {
        let folder = &*self.outbox.folder;
        let hidden = hidden(name);
        let mut made = self.undo();
        let renamed = match renameat_with(folder, &hidden, folder, name, RenameFlags::NOREPLACE) {
            // A file system without it (rename(2)) mostly has links.
            Err(Errno::INVAL | Errno::NOSYS) => linkat(folder, &hidden, folder, name, AtFlags::empty())
                .and_then(|()| unlinkat(folder, &hidden, AtFlags::empty())),
            renamed => renamed,
        };
        match renamed {
            Ok(()) if last => made.clear(),
            Ok(()) => {
                let of_this = made.iter_mut().find(|made| made.name == hidden);
                name.clone_into(&mut of_this.expect("it was made").name);
            }
            Err(Errno::EXIST) => return Err(self.taken(name)),
            Err(errno) => return Err(failed("rename in", &self.outbox.path, errno)),
        }
        Ok(())
    }

    fn taken(&self, name: &str) -> PutError {
        PutError::Taken { name: name.to_owned(), outbox: self.outbox.path.clone() }
    }

    /// Whether the daemon will be able to read a file that is renamed in as it is.
    fn make_readable(&self, file: &File, now: &std::fs::Metadata) -> bool {
        let mode = now.permissions().mode();
        if mode & OTHERS != 0 || (now.gid() == self.outbox.gid && mode & 0o040 != 0) {
            return true;
        }
        (now.gid() == self.outbox.gid || fchown(file, None, Some(Gid::from_raw(self.outbox.gid))).is_ok())
            && fchmod(file, Mode::from_raw_mode(mode & 0o7777 | 0o040)).is_ok()
    }

    fn look_for_room(&self, path: &Path, bytes: u64) -> Result<(), PutError> {
        match fstatvfs(&*self.outbox.folder) {
            Ok(fs) if fs.f_bavail.saturating_mul(fs.f_frsize) < bytes => Err(PutError::NoSpace {
                outbox: self.outbox.path.clone(),
                what: format!("{} has {bytes} bytes, {} are left", path.display(), fs.f_bavail * fs.f_frsize),
            }),
            _ => Ok(()),
        }
    }

    fn not_copied(&self, path: Option<&Path>, error: &io::Error) -> PutError {
        let what = path.map_or_else(|| "writing".to_owned(), |path| format!("copying {}", path.display()));
        let outbox = self.outbox.path.clone();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                PutError::NoSpace { outbox, what: format!("{what}: {error}") }
            }
            _ => PutError::Outbox {
                call: "write to",
                outbox,
                source: io::Error::new(error.kind(), format!("{what}: {error}")),
            },
        }
    }
}

impl Outbox {
    /// Whether nobody writes that hidden file any more.
    fn is_left_over(&self, hidden: &str) -> bool {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&*self.folder, hidden, flags, Mode::empty())
            .is_ok_and(|left| flock(&left, FlockOperation::NonBlockingLockExclusive).is_ok())
    }
}

fn failed(call: &'static str, outbox: &Path, errno: Errno) -> PutError {
    PutError::Outbox { call, outbox: outbox.to_owned(), source: errno.into() }
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|of_path| of_path.is_symlink())
}

/// The name under which it is not seen: the daemon leaves alone what begins with a dot.
fn hidden(name: &str) -> String {
    const SUFFIX: &str = ".part";
    let mut end = name.len().min(MAX_NAME_BYTES - 1 - SUFFIX.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}{SUFFIX}", &name[..end])
}

/// Copies a file's content, by the file system itself where it can.
fn copy(from: &File, to: &File, told: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let mut done = 0;
    loop {
        match copy_file_range(from, None, to, None, STEP) {
            // At the very start it says that the file has no length it knows of (as in /proc), or is really empty.
            Ok(0) if done > 0 => return Ok(done),
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                let (mut from, copied) = (from, done);
                return Ok(copied + copy_by_hand(&mut from, to, &mut |more| told(copied + more))?);
            }
            Ok(bytes) => done += bytes as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        told(done);
    }
}

fn copy_by_hand(from: &mut dyn Read, mut to: &File, told: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(done),
            Ok(bytes) => {
                to.write_all(&buffer[..bytes])?;
                done += bytes as u64;
                told(done);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file that is to be taken away again unless all of them come to their end.
#[derive(Debug)]
struct Made {
    folder: Arc<OwnedFd>,
    name: String,
}

/// What is unfinished: shared with whoever hears of Ctrl-C.
#[derive(Clone, Debug, Default)]
pub(super) struct Undo(Arc<Mutex<Vec<Made>>>);

impl Undo {
    fn lock(&self) -> MutexGuard<'_, Vec<Made>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away what is unfinished.
    pub(super) fn all(&self) {
        remove(&mut self.lock());
    }

    /// Takes away what is unfinished, and lets nothing come to its end any more. Returns whether there was anything.
    pub(super) fn for_good(self) -> bool {
        let mut made = self.lock();
        let any = !made.is_empty();
        remove(&mut made);
        // Whoever waits for it would go on.
        std::mem::forget(made);
        any
    }
}

fn remove(made: &mut Vec<Made>) {
    for Made { folder, name } in made.drain(..).rev() {
        // Nobody is there to be told; the next hand-over of that name replaces it.
        let _left = unlinkat(&*folder, &name, AtFlags::empty());
    }
}
