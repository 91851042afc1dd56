//! The committed corpora of the fuzz targets, one input after the other: what once went wrong does not again, and no
//! fuzzer is needed to see it.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::{fs, path::Path};

/// Gives each input of a corpus to its target; a panic names the input.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("the folder can be read").path();
        println!("{}", path.display());
        run(&fs::read(&path).expect("the input can be read"));
        count += 1;
    }
    assert!(count >= 5, "{count} inputs in {}", folder.display());
}

#[test]
fn desired_documents() {
    replay("desired", targets::desired);
}

#[test]
fn requests() {
    replay("command", targets::command);
}

#[test]
fn provisioning_files() {
    replay("provisioning", targets::provisioning);
}

#[test]
fn policies_and_their_packets() {
    replay("compiler", targets::compiler);
}

#[test]
fn envelopes_of_policies() {
    replay("envelope", targets::envelope);
}

#[test]
fn bundles() {
    replay("bundle", targets::bundle);
}

#[test]
fn answers_to_uploads() {
    replay("upload-server", targets::upload_server);
}

#[test]
fn sidecars_of_uploads() {
    replay("upload-sidecar", targets::upload_sidecar);
}

#[test]
fn journals_of_uploads() {
    replay("upload-journal", targets::upload_journal);
}

#[test]
fn ledgers_of_uploads() {
    replay("upload-ledger", targets::upload_ledger);
}
