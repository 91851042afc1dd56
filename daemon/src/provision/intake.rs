//! Takes files in, or refuses them: the order of the steps that the module's header draws.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    document::{Document, Fault},
    notice::Notice,
    owner::as_owner_of,
    seen::Seen,
    source::{Reading, Source, is_still_there},
    state::{self, Refusals},
};

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is the gateway's provisioning now.
    Provisioned {
        /// The file.
        file: PathBuf,
        /// The broker.
        url: String,
        /// Who the gateway is, where the file says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        gateway_id: Option<String>,
        /// Why the file is still there.
        #[serde(skip_serializing_if = "Option::is_none")]
        remains: Option<String>,
    },
    /// It is wrong; nothing else has changed.
    Refused {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reasons: Vec<String>,
        /// What it is called now, with the reasons in it.
        #[serde(skip_serializing_if = "Option::is_none")]
        kept_as: Option<PathBuf>,
        /// Why it could not be renamed.
        #[serde(skip_serializing_if = "Option::is_none")]
        remains: Option<String>,
    },
    /// It was dealt with before, and what was left of it has been removed now, if that can be done.
    Known {
        /// The file.
        file: PathBuf,
        /// Why the file is still there.
        #[serde(skip_serializing_if = "Option::is_none")]
        remains: Option<String>,
    },
    /// It cannot be read, or the state cannot be written; it is tried again with the next start.
    Failed {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
        /// Whether that is for want of a privilege.
        #[serde(skip)]
        forbidden: bool,
    },
}

/// Takes in what there is of `files`, of which the first counts most: where there are several, the others are
/// taken in before it, so that none of them comes back later. `state` is the daemon's folder.
#[must_use]
pub fn take_in(files: &[PathBuf], state: &Path) -> Vec<Outcome> {
    let outcomes = files.iter().rev().filter_map(|file| take_in_one(file, state)).collect();
    // The folder before the present one, and what a crash left. Where that cannot be done now, the next start does it.
    let _best_effort = as_owner_of(state, || state::sweep(state));
    outcomes
}

fn take_in_one(file: &Path, state: &Path) -> Option<Outcome> {
    let failed = |error: &io::Error, what: &str| Outcome::Failed {
        file: file.to_owned(),
        reason: format!("{what}: {error}"),
        forbidden: error.kind() == io::ErrorKind::PermissionDenied,
    };
    let source = match Source::open(file) {
        Ok(source) => source?,
        Err(error) => return Some(failed(&error, "it cannot be read")),
    };
    let reading = source.read();
    let dealt_with = deal_with(file, state, &source, &reading);
    Some(dealt_with.unwrap_or_else(|error| failed(&error, &format!("{} cannot be written", state.display()))))
}

/// # Errors
///
/// Those of the state; the file is where it was then, and the state as it was, or with all of it.
fn deal_with(file: &Path, state: &Path, source: &Source, reading: &Reading) -> io::Result<Outcome> {
    let (mut taken_in, refusals) = as_owner_of(state, || Ok((state::taken_in(state), state::refusals(state))))?;
    let remains = |removed: io::Result<()>| removed.err().map(|error| error.to_string());
    if taken_in.iter().any(|earlier| reading.seen.is_rest_of(earlier)) {
        return Ok(Outcome::Known { file: file.to_owned(), remains: remains(source.remove(reading)) });
    }
    let document = match &reading.document {
        Ok(document) => document,
        Err(faults) => return refuse(file, state, source, &reading.seen, faults, refusals),
    };
    taken_in.retain(is_still_there);
    taken_in.insert(0, reading.seen.clone());
    let Document { url, gateway_id, .. } = document.clone();
    let notice = Notice::Provisioned { file: file.to_owned(), url: url.clone(), gateway_id: gateway_id.clone() };
    as_owner_of(state, || state::replace(state, document, taken_in, &notice))?;
    let remains = remains(source.remove(reading));
    Ok(Outcome::Provisioned { file: file.to_owned(), url, gateway_id, remains })
}

fn refuse(
    file: &Path,
    state: &Path,
    source: &Source,
    seen: &Seen,
    faults: &[Fault],
    mut refusals: Refusals,
) -> io::Result<Outcome> {
    let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let known = refusals.seen.contains(seen);
    if !known {
        refusals.seen.push(seen.clone());
        refusals.notices.push(Notice::refused(file, &reasons));
        as_owner_of(state, || state::keep_refusals(state, refusals.clone()))?;
    }
    let file = file.to_owned();
    match source.refuse(faults) {
        Ok(kept_as) => {
            // The same file put there again is told again.
            refusals.seen.retain(|other| other != seen);
            as_owner_of(state, || state::keep_refusals(state, refusals))?;
            Ok(Outcome::Refused { file, reasons, kept_as: Some(kept_as), remains: None })
        }
        Err(error) if known => Ok(Outcome::Known { file, remains: Some(error.to_string()) }),
        Err(error) => Ok(Outcome::Refused { file, reasons, kept_as: None, remains: Some(error.to_string()) }),
    }
}
