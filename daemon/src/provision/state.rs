//! What provisioning keeps in the state folder. All of this runs with the rights of the folder's owner.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Document, durable, folder, layer, notice::Notice, seen::Seen};

const TAKEN_IN: &str = "taken-in.json";
const NOTICE: &str = "notice.json";
const REFUSED: &str = "provisioning-refused.json";
/// Files that could be neither removed nor renamed, each: there are four places where one is looked for.
const MAX_SEEN: usize = 8;

/// Refusals that the daemon has not reported yet, and refused files that could not be renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Refusals {
    pub(super) seen: Vec<Seen>,
    pub(super) notices: Vec<Notice>,
}

/// What was taken in and may still be where it was; the one that runs first.
pub(super) fn taken_in(state: &Path) -> Vec<Seen> {
    read(&folder(state).join(TAKEN_IN))
}

/// Removes what a crash left, and the folder before the present one.
pub(super) fn sweep(state: &Path) -> io::Result<()> {
    match fs::remove_dir_all(new_folder(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts the document's files in the place of all that was provisioned before: as a whole, or not at all.
pub(super) fn replace(state: &Path, document: &Document, mut taken_in: Vec<Seen>, notice: &Notice) -> io::Result<()> {
    let (folder, new) = (folder(state), new_folder(state));
    sweep(state)?;
    DirBuilder::new().mode(0o700).create(&new)?;
    for (name, content) in layer::files(document, &folder) {
        durable::create(&new.join(name), content.as_bytes())?;
    }
    taken_in.truncate(MAX_SEEN);
    durable::create(&new.join(TAKEN_IN), &json(&taken_in))?;
    durable::create(&new.join(NOTICE), &json(notice))?;
    File::open(&new)?.sync_all()?;
    // The names of all that stands in it are on the disk before the folder's own.
    if folder.exists() {
        renameat_with(CWD, &new, CWD, &folder, RenameFlags::EXCHANGE)?;
    } else {
        fs::rename(&new, &folder)?;
    }
    durable::sync_folder_of(&folder)
}

/// What was refused.
pub(super) fn refusals(state: &Path) -> Refusals {
    read(&state.join(REFUSED))
}

/// Keeps what was refused.
pub(super) fn keep_refusals(state: &Path, mut refusals: Refusals) -> io::Result<()> {
    let path = state.join(REFUSED);
    // The latest count.
    refusals.seen.drain(..refusals.seen.len().saturating_sub(MAX_SEEN));
    refusals.notices.drain(..refusals.notices.len().saturating_sub(MAX_SEEN));
    if refusals == Refusals::default() { durable::remove(&path) } else { durable::replace(&path, &json(&refusals)) }
}

/// What the daemon has not reported yet.
pub(super) fn notices(state: &Path) -> Vec<Notice> {
    let mut notices = refusals(state).notices;
    notices.extend(read::<Option<Notice>>(&folder(state).join(NOTICE)));
    notices
}

/// All of [`notices`] has been reported.
pub(super) fn forget_notices(state: &Path) -> io::Result<()> {
    let refusals = refusals(state);
    if !refusals.notices.is_empty() {
        keep_refusals(state, Refusals { notices: Vec::new(), ..refusals })?;
    }
    durable::remove(&folder(state).join(NOTICE))
}

fn new_folder(state: &Path) -> PathBuf {
    state.join("provisioned.new")
}

/// What is absent, or damaged, is as if nothing had been kept: the worst that follows is that a file which cannot be
/// removed is judged once more.
fn read<T: DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts, lists, and maps with text keys have a form in JSON")
}
