//! What becomes of a file that was sent: it is removed, moved into `sent`, or stays.
//!
//! # Constraints
//!
//! Never is anything removed but the file that was sent. Linux cannot remove a name on the condition that it stands for
//! a certain file, and between a look and a removal a program may rename its next file over the name. So the name is
//! taken aside first:
//!
//! ```text
//!   OUTBOX/NAME ──rename──► OUTBOX/.tidegate-sent/NAME ──look──► the one that was sent ──► removed, or moved to OUTBOX/sent/NAME
//!        ▲                                                   └─► another one
//!        └───────────────rename, over nothing────────────────────────┘
//! ```
//!
//! `.tidegate-sent` is a folder of our own, so that nobody else changes what lies in it, and so that a name there is
//! still the name that it was. Nothing is ever renamed over something. Where the name was taken meanwhile, what comes
//! back gets `.1`, `.2` and so on behind it: that happens where a program renamed two files over one name within this
//! moment, and then the first of them is sent as well.
//!
//! # After a crash
//!
//! What lies in `.tidegate-sent` was sent, or it is another one that was to come back. Who knows what was sent calls
//! [`finish`] once more: it goes on from any point. Whatever is left after that is put back by [`recover_leftovers`]
//! and sent, perhaps a second time. No case ends with a removal of what is not known to have been sent:
//!
//! | cut off | what lies where | [`finish`] again | [`recover_leftovers`] alone |
//! |---|---|---|---|
//! | before the rename | `NAME` | as if it were the first time | nothing to do |
//! | after the rename | aside, the sent one | removed or moved | back to `NAME` |
//! | after the rename | aside, another one | back to `NAME` | back to `NAME` |
//! | between file and sidecar, removed | the sidecar aside | the file has vanished | the sidecar is removed |
//! | between sidecar and file, moved | the file aside | moved | back to `NAME` |
//! | after all, not synced | any of these | see there | see there |
//!
//! # Sidecars
//!
//! The sidecar goes with its file, where it is still the one that was read. A lone one would be taken for the next file
//! of that name: it is removed after its file and moved before it, so that only one that is not needed is ever left
//! behind.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, RawDir, RenameFlags, fchmod, fstat, fsync, linkat, mkdirat, openat, renameat,
        renameat_with, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use super::{
    folder::{Folder, FolderError},
    identity::Identity,
    names,
};
use crate::{journal::NOT_WORTH_A_SYNC, settings::After};

/// Where names are taken aside.
const ASIDE: &str = ".tidegate-sent";
/// Where files are moved to.
const SENT: &str = "sent";
/// What that is made with, whatever our `umask` is: whoever is in the group may look into it.
const SENT_MODE: Mode = Mode::from_raw_mode(0o750);
/// Attempts to find a name that nobody else takes at the same time.
const NAME_ATTEMPTS: u32 = 16;
/// Leftovers that are looked at together. There are as many as files were under way at once.
const BATCH: usize = 64;

/// What became of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It is gone.
    Removed,
    /// It lies in `sent`, by this name.
    Moved(String),
    /// It stays where it is: note that it was sent.
    Kept,
    /// Under its name lies another file, or another content, which is to be sent. What was sent is gone by another's
    /// deed.
    Another,
    /// Nothing lies under its name: it was removed by another, or an earlier call went that far.
    Vanished,
}

/// Whether a name was taken aside.
#[derive(PartialEq, Eq)]
enum Taken {
    /// It was, and it is the right file.
    Right,
    /// Nothing is there.
    Absent,
    /// It stands for another one, and stands where it stood.
    Another,
}

/// Does with a file of the outbox what is to be done with one that was sent. `sidecar` is what [`super::sidecar::read`]
/// found. On file systems that give files another number each time (FAT, FUSE), call it while the file is still open.
/// Blocks on the disk, which is synced for files of more than [`NOT_WORTH_A_SYNC`].
///
/// # Errors
///
/// Where the folder does not let us. The file then lies under its name again, or aside if that failed, too; it was sent
/// all the same, and must be noted as such.
pub fn finish(
    folder: &Folder,
    name: &str,
    sent: &Identity,
    sidecar: Option<&Identity>,
    after: After,
) -> Result<Finished, FolderError> {
    if after == After::Keep {
        return Ok(Finished::Kept);
    }
    // From a journal, perhaps.
    names::check(name.as_bytes()).map_err(|_| folder.error("openat", Errno::INVAL))?;
    let aside = aside(folder, true)?.ok_or_else(|| folder.error("openat", Errno::NOENT))?;
    let into = if after == After::Move { Some(sent_folder(folder)?) } else { None };
    let desk = Desk { folder: folder.as_fd(), aside: aside.as_fd() };
    let finished = desk.finish(name, sent, sidecar, into.as_ref()).map_err(|errno| folder.error("renameat2", errno));
    if sent.size > NOT_WORTH_A_SYNC {
        let into = into.as_ref().map_or(Ok(()), |into| sync(into.as_fd()));
        into.and_then(|()| desk.sync()).map_err(|errno| folder.error("fsync", errno))?;
    }
    finished
}

/// Puts back what a crash left aside, so that it is sent; how many files. Call it at the start, after [`finish`] for
/// all that is known to have been sent.
///
/// # Errors
///
/// Where the folder does not let us. Nothing is lost.
pub fn recover_leftovers(folder: &Folder) -> Result<usize, FolderError> {
    let Some(aside) = aside(folder, false)? else { return Ok(0) };
    let desk = Desk { folder: folder.as_fd(), aside: aside.as_fd() };
    let count = desk.recover().map_err(|errno| folder.error("renameat2", errno))?;
    if count > 0 {
        desk.sync().map_err(|errno| folder.error("fsync", errno))?;
    }
    Ok(count)
}

/// The folder for names taken aside, made where `make` says so.
fn aside(folder: &Folder, make: bool) -> Result<Option<OwnedFd>, FolderError> {
    let path = || folder.path().join(ASIDE);
    let fd = match open_folder(folder.as_fd(), ASIDE) {
        Ok(fd) => fd,
        Err(Errno::NOENT) if !make => return Ok(None),
        Err(Errno::NOENT) => mkdirat(folder, ASIDE, Mode::RWXU)
            .and_then(|()| open_folder(folder.as_fd(), ASIDE))
            .map_err(|errno| FolderError::new(&path(), "mkdirat", errno))?,
        Err(errno) => return Err(FolderError::new(&path(), "openat", errno)),
    };
    // Who may do anything in the outbox, may here: root and its owner. On FAT all is owned by whom the mount says.
    // Another one's folder would be a place to lose things in.
    let owner = |fd: BorrowedFd<'_>| fstat(fd).map(|stat| stat.st_uid).map_err(|errno| folder.error("fstat", errno));
    let (ours, theirs) = (owner(fd.as_fd())?, owner(folder.as_fd())?);
    if ours == geteuid().as_raw() || ours == 0 || ours == theirs {
        Ok(Some(fd))
    } else {
        Err(FolderError::foreign(path()))
    }
}

/// The folder for files that were sent, made where it is absent.
fn sent_folder(folder: &Folder) -> Result<OwnedFd, FolderError> {
    open_folder(folder.as_fd(), SENT)
        .or_else(|errno| {
            if errno != Errno::NOENT {
                return Err(errno);
            }
            mkdirat(folder, SENT, SENT_MODE)?;
            let fd = open_folder(folder.as_fd(), SENT)?;
            // FAT has no modes to set.
            let _or_as_it_was_made = fchmod(&fd, SENT_MODE);
            Ok(fd)
        })
        .map_err(|errno| FolderError::new(&folder.path().join(SENT), "mkdirat", errno))
}

fn open_folder(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Sees to it that the names in a folder are those after a power cut, too, where its file system can do that for a
/// folder.
fn sync(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    match fsync(folder) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

/// What is under a name, without following a link; `None` where nothing is.
fn look(at: BorrowedFd<'_>, name: &str) -> Result<Option<Identity>, Errno> {
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Identity::from_stat(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// An outbox, and where its names are taken aside.
#[derive(Clone, Copy)]
struct Desk<'a> {
    folder: BorrowedFd<'a>,
    aside: BorrowedFd<'a>,
}

impl Desk<'_> {
    fn finish(
        self,
        name: &str,
        sent: &Identity,
        sidecar: Option<&Identity>,
        into: Option<&OwnedFd>,
    ) -> Result<Finished, Errno> {
        match self.take(name, sent)? {
            Taken::Right => {}
            Taken::Absent => return Ok(Finished::Vanished),
            Taken::Another => return Ok(Finished::Another),
        }
        let done = self.dispose(name, sidecar, into.map(|into| into.as_fd()));
        if done.is_err() {
            // Where somebody sees it.
            let _or_at_the_next_start = self.put_back(name);
        }
        done
    }

    fn sync(self) -> Result<(), Errno> {
        sync(self.aside)?;
        sync(self.folder)
    }

    /// Removes or moves what was taken aside, and its sidecar.
    fn dispose(self, name: &str, sidecar: Option<&Identity>, into: Option<BorrowedFd<'_>>) -> Result<Finished, Errno> {
        let beside = names::sidecar_of(name);
        let with_sidecar = match sidecar {
            Some(identity) => self.take(&beside, identity)? == Taken::Right,
            None => false,
        };
        let Some(into) = into else {
            unlinkat(self.aside, name, AtFlags::empty())?;
            if with_sidecar {
                unlinkat(self.aside, &beside, AtFlags::empty())?;
            }
            return Ok(Finished::Removed);
        };
        if with_sidecar {
            place(self.aside, &beside, into, &beside)?;
        }
        place(self.aside, name, into, name).map(Finished::Moved)
    }

    /// Takes a name aside where it stands for that file, or finds that an earlier call did.
    fn take(self, name: &str, expected: &Identity) -> Result<Taken, Errno> {
        if let Some(found) = look(self.aside, name)? {
            if found.same_content(expected) {
                return Ok(Taken::Right);
            }
            self.put_back(name)?;
        }
        match look(self.folder, name)? {
            None => return Ok(Taken::Absent),
            Some(found) if !found.same_content(expected) => return Ok(Taken::Another),
            Some(_) => {}
        }
        #[cfg(test)]
        tests::meanwhile();
        let renamed = match rename_over_nothing(self.folder, name, self.aside, name) {
            // A file system that cannot promise it. Nothing is there, and nobody else puts anything there.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(self.folder, name, self.aside, name),
            done => done,
        };
        match renamed {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Taken::Absent),
            Err(errno) => return Err(errno),
        }
        // What stood there at the moment of the rename.
        if look(self.aside, name)?.is_some_and(|found| found.same_content(expected)) {
            return Ok(Taken::Right);
        }
        self.put_back(name)?;
        Ok(Taken::Another)
    }

    /// Puts back what was taken aside; a file's sidecar before it.
    fn put_back(self, name: &str) -> Result<(), Errno> {
        if names::is_sidecar(name.as_bytes()) {
            return self.put_sidecar_back(name);
        }
        self.put_sidecar_back(&names::sidecar_of(name))?;
        // By link and unlink, and cut off in between: it is back already.
        let here = look(self.aside, name)?.map(|here| here.ino);
        if here.is_some() && here == look(self.folder, name)?.map(|there| there.ino) {
            return unlinkat(self.aside, name, AtFlags::empty());
        }
        place(self.aside, name, self.folder, name).map(drop)
    }

    fn put_sidecar_back(self, name: &str) -> Result<(), Errno> {
        match rename_new(self.aside, name, self.folder, name) {
            // There is none, or its name would be so long that there can be none.
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(()),
            // There is a newer one, which its program would have renamed over this one.
            Err(Errno::EXIST) => unlinkat(self.aside, name, AtFlags::empty()),
            done => done,
        }
    }

    fn recover(self) -> Result<usize, Errno> {
        let mut count = 0;
        loop {
            let (files, sidecars) = self.leftovers()?;
            for name in &files {
                self.put_back(name)?;
            }
            // Those whose file is not there: it was removed.
            for name in &sidecars {
                match unlinkat(self.aside, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            count += files.len();
            if files.is_empty() && sidecars.is_empty() {
                return Ok(count);
            }
        }
    }

    /// Some of the names that lie aside: of files, and of sidecars without one.
    fn leftovers(self) -> Result<(Vec<String>, Vec<String>), Errno> {
        let (mut files, mut sidecars) = (Vec::new(), Vec::new());
        let list = open_folder(self.aside, ".")?;
        let mut buffer = Vec::with_capacity(8 * 1024);
        let mut entries = RawDir::new(&list, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            // Nothing else was ever taken.
            let Ok(name) = names::check(entry.file_name().to_bytes()) else { continue };
            let Some(file) = name.strip_suffix(names::SIDECAR_SUFFIX).filter(|file| !file.is_empty()) else {
                files.push(name.to_owned());
                continue;
            };
            if look(self.aside, file)?.is_none() {
                sidecars.push(name.to_owned());
            }
            if files.len() + sidecars.len() >= BATCH {
                break;
            }
        }
        Ok((files, sidecars))
    }
}

/// Renames to a name that nothing has: the wanted one, or with a number behind it. Which one it became.
fn place(from: BorrowedFd<'_>, name: &str, to: BorrowedFd<'_>, wanted: &str) -> Result<String, Errno> {
    match rename_new(from, name, to, wanted) {
        Ok(()) => return Ok(wanted.to_owned()),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    // By halves: a program that always uses one name has thousands of them in `sent` some day.
    let is_taken = |n: u32| look(to, &names::numbered(wanted, n)).map(|found| found.is_some());
    let mut free = 1_u32;
    while is_taken(free)? {
        free = free.checked_mul(2).ok_or(Errno::EXIST)?;
    }
    let mut taken = free / 2;
    while free - taken > 1 {
        let between = taken.midpoint(free);
        *(if is_taken(between)? { &mut taken } else { &mut free }) = between;
    }
    for n in free..free.saturating_add(NAME_ATTEMPTS) {
        let numbered = names::numbered(wanted, n);
        match rename_new(from, name, to, &numbered) {
            Ok(()) => return Ok(numbered),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

fn rename_over_nothing(from: BorrowedFd<'_>, name: &str, to: BorrowedFd<'_>, new: &str) -> Result<(), Errno> {
    #[cfg(test)]
    if tests::PLAIN.get() {
        return Err(Errno::INVAL);
    }
    renameat_with(from, name, to, new, RenameFlags::NOREPLACE)
}

/// Renames where nothing has the new name, on any file system.
fn rename_new(from: BorrowedFd<'_>, name: &str, to: BorrowedFd<'_>, new: &str) -> Result<(), Errno> {
    match rename_over_nothing(from, name, to, new) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            // A file system that cannot promise it. For a link, each one can that has links at all.
            linkat(from, name, to, new, AtFlags::empty())?;
            unlinkat(from, name, AtFlags::empty())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::{Path, PathBuf},
        sync::Barrier,
    };

    use super::*;
    use crate::outbox::as_nobody;

    thread_local! {
        /// The file system knows no `RENAME_NOREPLACE`.
        pub(super) static PLAIN: Cell<bool> = const { Cell::new(false) };
        static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    }

    /// What a program does between the look and the rename, once.
    pub(super) fn meanwhile() {
        if let Some(deed) = MEANWHILE.take() {
            deed();
        }
    }

    struct Bench {
        temp: tempfile::TempDir,
        folder: Folder,
    }

    impl Bench {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let folder = Folder::open(temp.path()).unwrap();
            Self { temp, folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.temp.path().join(name)
        }

        /// Writes a file as a program should, and says what it is.
        fn put(&self, name: &str, content: &str) -> Identity {
            self.rename_in(name, content);
            identity(&self.path(name))
        }

        fn rename_in(&self, name: &str, content: &str) {
            let unfinished = self.path(&format!("{name}.part"));
            fs::write(&unfinished, content).unwrap();
            fs::rename(&unfinished, self.path(name)).unwrap();
        }

        fn finish(&self, name: &str, sent: &Identity, after: After) -> Finished {
            finish(&self.folder, name, sent, None, after).unwrap()
        }

        /// All that lies there, with its content.
        fn all(&self) -> Vec<(String, String)> {
            let mut all = Vec::new();
            let mut folders = vec![self.temp.path().to_owned()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.symlink_metadata().unwrap().is_dir() {
                        folders.push(path);
                    } else if !path.is_symlink() {
                        let name = path.strip_prefix(self.temp.path()).unwrap().to_str().unwrap().to_owned();
                        all.push((name, fs::read_to_string(path).unwrap()));
                    }
                }
            }
            all.sort();
            all
        }

        fn lies(&self, expected: &[(&str, &str)]) {
            let all = self.all();
            let all: Vec<(&str, &str)> = all.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
            assert_eq!(all, expected);
        }
    }

    fn identity(path: &Path) -> Identity {
        Identity::from_stat(&rustix::fs::lstat(path).unwrap())
    }

    #[test]
    fn a_sent_file_is_removed_moved_or_kept() {
        let bench = Bench::new();
        let sent = bench.put("a", "1");
        assert_eq!(bench.finish("a", &sent, After::Keep), Finished::Kept);
        bench.lies(&[("a", "1")]);
        assert!(!bench.path(ASIDE).exists());
        assert_eq!(bench.finish("a", &sent, After::Move), Finished::Moved("a".to_owned()));
        bench.lies(&[("sent/a", "1")]);
        assert_eq!(fs::metadata(bench.path(SENT)).unwrap().permissions().mode() & 0o777, 0o750);
        let sent = bench.put("b", "2");
        assert_eq!(bench.finish("b", &sent, After::Remove), Finished::Removed);
        bench.lies(&[("sent/a", "1")]);
        assert_eq!(bench.finish("b", &sent, After::Remove), Finished::Vanished, "once more");
    }

    #[test]
    fn a_name_that_is_taken_in_sent_gets_a_number() {
        let bench = Bench::new();
        for expected in ["a", "a.1", "a.2", "a.3", "a.4", "a.5", "a.6"] {
            let sent = bench.put("a", expected);
            assert_eq!(bench.finish("a", &sent, After::Move), Finished::Moved(expected.to_owned()));
        }
        assert!(bench.all().iter().all(|(name, content)| *name == format!("sent/{content}")));
        let long = "é".repeat(127);
        for number in ["", ".1", ".2"] {
            let sent = bench.put(&long[..240], number);
            fs::rename(bench.path(&long[..240]), bench.path(&long)).unwrap();
            let expected = if number.is_empty() { long.clone() } else { format!("{}{number}", &long[..252]) };
            assert_eq!(bench.finish(&long, &sent, After::Move), Finished::Moved(expected));
        }
    }

    #[test]
    fn a_file_that_was_renamed_over_the_sent_one_or_changed_is_never_removed() {
        for after in [After::Remove, After::Move] {
            let bench = Bench::new();
            let sent = bench.put("a", "1");
            bench.put("a", "2");
            assert_eq!(bench.finish("a", &sent, after), Finished::Another);
            bench.lies(&[("a", "2")]);

            let sent = identity(&bench.path("a"));
            fs::write(bench.path("a"), "longer").unwrap();
            assert_eq!(bench.finish("a", &sent, after), Finished::Another);
            bench.lies(&[("a", "longer")]);
        }
    }

    #[test]
    fn only_the_name_in_the_outbox_is_removed_of_a_file_with_several() {
        let bench = Bench::new();
        let elsewhere = tempfile::tempdir_in(bench.temp.path().parent().unwrap()).unwrap();
        fs::write(elsewhere.path().join("original"), "1").unwrap();
        fs::hard_link(elsewhere.path().join("original"), bench.path("a")).unwrap();
        let sent = identity(&bench.path("a"));
        assert_eq!(bench.finish("a", &sent, After::Remove), Finished::Removed);
        assert_eq!(fs::read_to_string(elsewhere.path().join("original")).unwrap(), "1");
    }

    #[test]
    fn a_folder_or_a_link_in_the_place_of_the_file_is_left_alone() {
        let bench = Bench::new();
        let sent = bench.put("a", "1");
        fs::remove_file(bench.path("a")).unwrap();
        fs::create_dir(bench.path("a")).unwrap();
        assert_eq!(bench.finish("a", &sent, After::Remove), Finished::Another);
        fs::remove_dir(bench.path("a")).unwrap();
        bench.put("b", "2");
        symlink("b", bench.path("a")).unwrap();
        assert_eq!(bench.finish("a", &sent, After::Remove), Finished::Another);
        assert!(bench.path("a").is_symlink());
    }

    #[test]
    fn the_sidecar_goes_with_its_file_and_a_newer_one_does_not() {
        let bench = Bench::new();
        let done = |name, sent: &Identity, sidecar: &Identity, after| {
            finish(&bench.folder, name, sent, Some(sidecar), after).unwrap()
        };
        let beside = bench.put("a.meta.json", "{}");
        let sent = bench.put("a", "1");
        assert_eq!(done("a", &sent, &beside, After::Remove), Finished::Removed);
        bench.lies(&[]);
        let beside = bench.put("a.meta.json", "{}");
        let sent = bench.put("a", "1");
        assert_eq!(done("a", &sent, &beside, After::Move), Finished::Moved("a".to_owned()));
        bench.lies(&[("sent/a", "1"), ("sent/a.meta.json", "{}")]);
        let sent = bench.put("a", "1");
        bench.put("a.meta.json", "{ }");
        assert_eq!(done("a", &sent, &beside, After::Remove), Finished::Removed);
        bench.lies(&[("a.meta.json", "{ }"), ("sent/a", "1"), ("sent/a.meta.json", "{}")]);
    }

    #[test]
    fn it_goes_on_from_wherever_a_crash_cut_it_off() {
        for after in [After::Remove, After::Move] {
            let bench = Bench::new();
            fs::create_dir(bench.path(ASIDE)).unwrap();
            let beside = bench.put("a.meta.json", "{}");
            let sent = bench.put("a", "1");
            // Behind the rename; and a newer file came meanwhile.
            fs::rename(bench.path("a"), bench.path(".tidegate-sent/a")).unwrap();
            bench.put("a", "2");
            let finished = finish(&bench.folder, "a", &sent, Some(&beside), after).unwrap();
            if after == After::Move {
                assert_eq!(finished, Finished::Moved("a".to_owned()));
                bench.lies(&[("a", "2"), ("sent/a", "1"), ("sent/a.meta.json", "{}")]);
            } else {
                assert_eq!(finished, Finished::Removed);
                bench.lies(&[("a", "2")]);
            }
        }
    }

    #[test]
    fn another_file_that_a_crash_left_aside_comes_back_under_its_name_or_beside_it() {
        for by_finish in [true, false] {
            let bench = Bench::new();
            fs::create_dir(bench.path(ASIDE)).unwrap();
            let sent = bench.put("a", "sent");
            bench.put("a", "newer");
            fs::rename(bench.path("a"), bench.path(".tidegate-sent/a")).unwrap();
            let recover = || {
                if by_finish {
                    assert_eq!(bench.finish("a", &sent, After::Remove), Finished::Another);
                } else {
                    assert_eq!(recover_leftovers(&bench.folder), Ok(1));
                }
            };
            recover();
            bench.lies(&[("a", "newer")]);
            fs::rename(bench.path("a"), bench.path(".tidegate-sent/a")).unwrap();
            bench.put("a", "newest");
            recover();
            bench.lies(&[("a", "newest"), ("a.1", "newer")]);
        }
    }

    #[test]
    fn what_nobody_knows_about_is_put_back_and_sent_again() {
        let bench = Bench::new();
        assert_eq!(recover_leftovers(&bench.folder), Ok(0));
        assert!(!bench.path(ASIDE).exists());
        fs::create_dir(bench.path(ASIDE)).unwrap();
        for n in 0..3 * BATCH {
            bench.put(&format!(".tidegate-sent/{n}"), "");
        }
        bench.put(".tidegate-sent/0.meta.json", "{}");
        // Of a file that was removed.
        bench.put(".tidegate-sent/none.meta.json", "{}");
        // Both are there where a rename could only be done by a link, and that was cut off.
        fs::hard_link(bench.path(".tidegate-sent/1"), bench.path("1")).unwrap();
        // A newer one came.
        bench.put("2.meta.json", "{ }");
        bench.put(".tidegate-sent/2.meta.json", "{}");
        assert_eq!(recover_leftovers(&bench.folder), Ok(3 * BATCH));
        let all = bench.all();
        assert_eq!(all.len(), 3 * BATCH + 2);
        assert!(all.contains(&("0.meta.json".to_owned(), "{}".to_owned())));
        assert!(all.contains(&("2.meta.json".to_owned(), "{ }".to_owned())));
        assert_eq!(recover_leftovers(&bench.folder), Ok(0));
    }

    #[test]
    fn what_we_may_not_do_is_said_and_leaves_the_file_where_it_is() {
        let bench = Bench::new();
        let sent = bench.put("a", "1");
        fs::set_permissions(bench.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let refused = as_nobody(|| finish(&bench.folder, "a", &sent, None, After::Remove).unwrap_err().to_string());
        assert!(refused.is_none_or(|refused| refused.contains("no permission")));
        bench.lies(&[("a", "1")]);

        // Somebody else's folder, or link, in the place of ours.
        symlink("/tmp", bench.path(SENT)).unwrap();
        let refused = finish(&bench.folder, "a", &sent, None, After::Move).unwrap_err().to_string();
        assert!(refused.contains("sent is not a folder"), "{refused}");
        bench.lies(&[("a", "1")]);
        if geteuid().is_root() {
            rustix::fs::chown(bench.path(ASIDE), Some(rustix::process::Uid::from_raw(4711)), None).unwrap();
            let refused = finish(&bench.folder, "a", &sent, None, After::Remove).unwrap_err().to_string();
            assert!(refused.contains(".tidegate-sent is not the daemon's own folder"), "{refused}");
            bench.lies(&[("a", "1")]);
        }
    }

    #[test]
    fn a_file_that_is_renamed_over_the_sent_one_in_the_very_moment_comes_back() {
        for after in [After::Remove, After::Move] {
            let bench = Bench::new();
            let sent = bench.put("a", "sent");
            bench.put("next", "next");
            let (next, name) = (bench.path("next"), bench.path("a"));
            MEANWHILE.set(Some(Box::new(move || fs::rename(next, name).unwrap())));
            assert_eq!(bench.finish("a", &sent, after), Finished::Another);
            bench.lies(&[("a", "next")]);

            let sent = identity(&bench.path("a"));
            let name = bench.path("a");
            MEANWHILE.set(Some(Box::new(move || fs::remove_file(name).unwrap())));
            assert_eq!(bench.finish("a", &sent, after), Finished::Vanished);
        }
    }

    #[test]
    fn all_that_holds_on_a_file_system_without_renames_over_nothing() {
        PLAIN.set(true);
        a_sent_file_is_removed_moved_or_kept();
        a_name_that_is_taken_in_sent_gets_a_number();
        the_sidecar_goes_with_its_file_and_a_newer_one_does_not();
        it_goes_on_from_wherever_a_crash_cut_it_off();
        another_file_that_a_crash_left_aside_comes_back_under_its_name_or_beside_it();
        what_nobody_knows_about_is_put_back_and_sent_again();
        a_file_that_is_renamed_over_the_sent_one_in_the_very_moment_comes_back();
        PLAIN.set(false);
    }

    #[test]
    fn no_file_is_lost_that_is_renamed_over_the_sent_one_at_the_same_time() {
        let bench = Bench::new();
        for round in 0..100 {
            let sent = bench.put("a", &format!("{round}: sent"));
            let begin = Barrier::new(2);
            let last = format!("{round}: last");
            let finished = std::thread::scope(|scope| {
                let program = scope.spawn(|| {
                    begin.wait();
                    for _ in 0..round % 50 {
                        std::hint::spin_loop();
                    }
                    bench.rename_in("a", &format!("{round}: next"));
                    bench.rename_in("a", &last);
                });
                begin.wait();
                let desk_finished = finish(&bench.folder, "a", &sent, None, After::Remove).unwrap();
                program.join().unwrap();
                desk_finished
            });
            assert!(matches!(finished, Finished::Removed | Finished::Another), "{finished:?}");
            let all = bench.all();
            assert!(
                all.contains(&("a".to_owned(), last.clone())) || all.iter().any(|(_, content)| *content == last),
                "{all:?}"
            );
            assert!(all.iter().all(|(name, _)| !name.starts_with('.')), "{all:?}");
            for (name, _) in all {
                fs::remove_file(bench.path(&name)).unwrap();
            }
        }
    }
}
