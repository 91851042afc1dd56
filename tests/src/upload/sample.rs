//! Files to upload. The same arguments make the same bytes; no more than a block of them is in memory.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use fastrand::Rng;

use super::sha256;

/// What is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lines as of a log, which zstd makes about four times smaller.
    Text,
    /// What cannot be made smaller.
    Random,
    /// Both in turn, 64 KiB at a time.
    Mixed,
}

/// A file that was made.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Where it is.
    pub path: PathBuf,
    /// Its name, without folders.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Bytes that are made at a time.
const BLOCK: usize = 64 << 10;

/// Makes the file `name` in `folder`.
///
/// # Panics
///
/// Where it cannot be written.
#[track_caller]
#[expect(clippy::must_use_candidate, reason = "the file is the point")]
pub fn sample(folder: &Path, name: &str, size: u64, kind: Kind, seed: u64) -> Sample {
    let path = folder.join(name);
    let written = File::create(&path).and_then(|file| write(BufWriter::new(file), size, kind, seed));
    written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    Sample { sha256: sha256(&path), name: name.to_owned(), path, size }
}

fn write(mut to: impl Write, size: u64, kind: Kind, seed: u64) -> io::Result<()> {
    let mut random = Rng::with_seed(seed);
    let mut block = Vec::with_capacity(BLOCK + LINE);
    let mut left = size;
    for index in 0_u64.. {
        if left == 0 {
            break;
        }
        let text = match kind {
            Kind::Text => true,
            Kind::Random => false,
            Kind::Mixed => index % 2 == 0,
        };
        block.clear();
        if text {
            while block.len() < BLOCK {
                line(&mut block, &mut random)?;
            }
            block.truncate(BLOCK);
        } else {
            block.resize(BLOCK, 0);
            random.fill(&mut block);
        }
        let count = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        to.write_all(&block[..count])?;
        left -= count as u64;
    }
    to.flush()
}

/// More than any line has.
const LINE: usize = 256;

/// One line of a log: words that come again and again, and numbers that do not.
fn line(to: &mut Vec<u8>, random: &mut Rng) -> io::Result<()> {
    const LEVELS: [&str; 4] = ["INFO", "INFO", "WARN", "DEBUG"];
    const PARTS: [&str; 6] = ["meter", "pump", "inverter", "valve", "gateway", "boiler"];
    const EVENTS: [&str; 8] = [
        "reading is within its limits",
        "reading is above its upper limit",
        "connection was closed by its peer",
        "set point has changed",
        "firmware answers again",
        "state is as it was wanted",
        "value was not read in time",
        "battery is charging",
    ];
    let one = |random: &mut Rng, of: &[&'static str]| of[random.usize(..of.len())];
    let (level, part, event) = (one(random, &LEVELS), one(random, &PARTS), one(random, &EVENTS));
    writeln!(
        to,
        "2026-11-{:02}T{:02}:{:02}:{:02}.{:03}Z {level} {part}/{}: {event} value={}.{:02} session={:08x}",
        random.u8(1..=30),
        random.u8(..24),
        random.u8(..60),
        random.u8(..60),
        random.u16(..1000),
        random.u8(..40),
        random.u16(..2000),
        random.u8(..100),
        random.u32(..),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{Scratch, need, requires};

    #[test]
    fn the_same_arguments_make_the_same_bytes() {
        let folder = Scratch::new("sample");
        for kind in [Kind::Text, Kind::Random, Kind::Mixed] {
            let make = |name: &str, seed| sample(folder.path(), name, 200_001, kind, seed);
            let (one, same, other) = (make("a", 1), make("b", 1), make("c", 2));
            assert_eq!(one.sha256, same.sha256, "{kind:?}");
            assert_ne!(one.sha256, other.sha256, "{kind:?}");
            assert_eq!(one.path.metadata().unwrap().len(), 200_001);
        }
        assert_eq!(sample(folder.path(), "empty", 0, Kind::Text, 1).path.metadata().unwrap().len(), 0);
    }

    #[test]
    fn text_is_made_four_times_smaller_and_random_bytes_are_not() {
        requires!(need::program("zstd"));
        let folder = Scratch::new("sample");
        let ratio = |kind| {
            let made = sample(folder.path(), "file", 2 << 20, kind, 7);
            let small = Command::new("zstd").args(["-3", "-q", "-c"]).arg(&made.path).output().unwrap().stdout.len();
            made.size as f64 / small as f64
        };
        let (text, random, mixed) = (ratio(Kind::Text), ratio(Kind::Random), ratio(Kind::Mixed));
        assert!((3.5..4.5).contains(&text), "{text}");
        assert!(random < 1.01, "{random}");
        assert!((1.3..2.0).contains(&mixed), "{mixed}");
    }
}
