//! Files that are garbage, cut short, flipped or from another spool: skipped, counted, never delivered, never fatal.

use std::path::{Path, PathBuf};

use super::{
    disk::Model,
    modeled::{Driver, Op, block_on},
};
use crate::LossReason;

const EXCUSED: [LossReason; 3] = [LossReason::Evicted, LossReason::Damaged, LossReason::Unknown];

/// A spool with two segments a lane, some of it delivered; closed in good order or killed.
async fn filled(mut driver: Driver, killed: bool) -> Result<Driver, String> {
    for round in 0u16..5 {
        driver.step(&Op::Append(vec![vec![(true, 0, 700 + round), (true, 1, 30)], vec![(true, 2, 7000); 2]])).await?;
        driver.step(&Op::Append(vec![vec![(false, 0, 300), (false, 1, 6000), (false, 0, 9000)]])).await?;
        if round == 1 {
            driver.step(&Op::Deliver { event: true, read: 5, acknowledge: 4 }).await?;
        }
    }
    driver.step(if killed { &Op::Kill } else { &Op::Restart }).await?;
    Ok(driver)
}

/// Files of a spool filled so.
fn files(killed: bool) -> Vec<PathBuf> {
    let disk = Model::new(3);
    let _driver = block_on(filled(Driver::new(disk.clone()), killed)).unwrap();
    disk.paths()
}

/// Fills a spool, lets `damage` have the file, and goes on. Returns how many records were reported lost.
fn survive(path: &Path, killed: bool, damage: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) -> Result<usize, String> {
    block_on(async {
        let disk = Model::new(3);
        let mut driver = filled(Driver::new(disk.clone()), killed).await?;
        match damage(disk.contents(path)) {
            Some(bytes) => disk.replace(path, bytes),
            None => disk.delete(path),
        }
        // Takes records first: the end of a gap is known when something comes behind it.
        driver.heal().await?;
        driver.settle(&EXCUSED).await?;
        driver.step(&Op::Restart).await?;
        driver.settle(&EXCUSED).await?;
        Ok(driver.lost())
    })
}

#[test]
fn files_cut_at_every_512_bytes_are_survived() {
    for path in files(true) {
        let length = block_on(async {
            let disk = Model::new(3);
            filled(Driver::new(disk.clone()), true).await.unwrap();
            disk.contents(&path).len()
        });
        for cut in (0..length).step_by(512) {
            // A spool that was closed has shorter files.
            let killed = cut % 1024 == 0;
            let outcome = survive(&path, killed, |bytes| Some(bytes[..cut.min(bytes.len())].to_vec()));
            assert!(outcome.is_ok(), "{} cut at {cut}, killed {killed}: {outcome:?}", path.display());
        }
    }
}

#[test]
fn garbage_and_missing_files_are_survived() {
    for killed in [false, true] {
        for path in files(killed) {
            let mut random = fastrand::Rng::with_seed(7);
            let outcomes = [
                survive(&path, killed, |_| None),
                survive(&path, killed, |_| Some(Vec::new())),
                survive(&path, killed, |bytes| Some(vec![0; bytes.len()])),
                survive(&path, killed, |bytes| Some(bytes.iter().map(|_| random.u8(..)).collect())),
                survive(&path, killed, |bytes| Some(bytes.repeat(3))),
            ];
            assert!(outcomes.iter().all(Result::is_ok), "{}, killed {killed}: {outcomes:?}", path.display());
        }
    }
}

#[test]
fn a_flipped_bit_costs_one_record_at_most() {
    let mut random = fastrand::Rng::with_seed(11);
    for path in files(false).into_iter().filter(|path| path.extension().is_some()) {
        for _ in 0..60 {
            let outcome = survive(&path, false, |mut bytes| {
                let byte = random.usize(4096..bytes.len());
                bytes[byte] ^= 1 << random.u8(..8);
                Some(bytes)
            });
            assert!(outcome.as_ref().is_ok_and(|lost| *lost <= 1), "{}: {outcome:?}", path.display());
        }
    }
}

#[test]
fn segments_of_another_spool_are_set_aside() {
    let foreign = Model::new(99);
    let _driver = block_on(filled(Driver::another(foreign.clone()), false)).unwrap();
    for killed in [false, true] {
        let ours = files(killed);
        for theirs in foreign.paths().into_iter().filter(|path| path.extension().is_some()) {
            let contents = foreign.contents(&theirs);
            let lane = theirs.parent().unwrap();
            // In the place of one of ours, before and behind them.
            let mut places: Vec<PathBuf> = ours.iter().filter(|path| path.starts_with(lane)).cloned().collect();
            places.push(lane.join("00000000000000ff.seg"));
            for place in places {
                let outcome = block_on(async {
                    let disk = Model::new(3);
                    let mut driver = filled(Driver::new(disk.clone()), killed).await?;
                    disk.replace(&place, contents.clone());
                    driver.heal().await?;
                    driver.settle(&EXCUSED).await?;
                    let aside = disk.paths().iter().filter(|path| path.starts_with("spool/quarantine")).count();
                    if aside == 1 { Ok(()) } else { Err(format!("{aside} files in quarantine")) }
                });
                assert_eq!(outcome, Ok(()), "{} as {}, killed {killed}", theirs.display(), place.display());
            }
        }
    }
}
