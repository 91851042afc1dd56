//! What a look at a full outbox costs.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs::File,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tidegate_upload::{
    ledger::Ledger,
    outbox::scan::Most,
    outbox::{Folder, Moment, Scan, Scanner},
};

/// The system's allocator, counted.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator, with what was handed in; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from `alloc` above, so from the system's, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: usize = 256;

fn fill(folder: &Path, names: std::ops::Range<usize>) {
    for n in names {
        File::create(folder.join(format!("measurement-{n:06}.csv"))).unwrap();
    }
}

/// One scan of files that are all settled; with what it took of time and, at its peak, of memory.
fn scan(folder: &Path) -> (Scan, Duration, usize) {
    let state = tempfile::tempdir().unwrap();
    let salt = Ledger::open(&state.path().join("ledger")).unwrap().0.salt();
    let folders = [Some(Folder::open(folder).unwrap())];
    let mut scanner = Scanner::new(Duration::from_secs(1));
    let now = Moment::now();
    scanner.scan(&[], salt, &|_, _| None, Most { candidates: LIMIT, named: 10 }, now);
    let later = Duration::from_secs(5);
    let now = Moment { monotonic: now.monotonic + later, wall: now.wall + later };
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let begin = Instant::now();
    let scan = scanner.scan(&folders, salt, &|_, _| None, Most { candidates: LIMIT, named: 10 }, now);
    (scan, begin.elapsed(), PEAK.load(Relaxed) - before)
}

/// The only test of this program: others would be counted, too.
#[test]
fn ten_thousand_files_take_no_more_memory_than_a_thousand_and_little_time() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..1_000);
    let (first, _, peak_of_few) = scan(folder.path());
    assert_eq!((first.waiting_files, first.candidates.len()), (1_000, LIMIT));
    fill(folder.path(), 1_000..10_000);
    let (second, took, peak) = scan(folder.path());
    assert_eq!((second.waiting_files, second.candidates.len()), (10_000, LIMIT));
    println!("{took:?}, {peak} bytes");
    assert!(peak <= peak_of_few + 4096, "{peak_of_few} {peak}");
    assert!(peak < 192 * 1024, "{peak}");
    // Some 40 ms where nothing else runs, half of it for the 10,000 calls of statx.
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(second.candidates.is_sorted_by_key(|candidate| (candidate.identity.mtime_ns, candidate.name.clone())));
}
