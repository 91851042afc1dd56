//! Files on their way into an outbox, and what is left where they do not come through.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
};

use clap::Parser as _;
use serde_json::Value;

use super::*;

struct Place {
    folder: tempfile::TempDir,
    undo: Undo,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("outbox")).unwrap();
        Self { folder, undo: Undo::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn outbox(&self) -> Outbox {
        Outbox::open(&self.path("outbox"), self.undo.clone()).unwrap()
    }

    /// What is in the outbox, by name.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("outbox")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn take(&self, path: &Path, name: &str) -> Result<u64, String> {
        self.take_with(path, name, None, false)
    }

    fn take_with(&self, path: &Path, name: &str, sidecar: Option<&[u8]>, moves: bool) -> Result<u64, String> {
        let item = Item { source: Source::Path(path), name, sidecar, moves };
        self.outbox().take(&item, &mut |_, _| {}).map_err(|error| error.to_string())
    }

    /// Answers as a daemon would, one client after the other, with a line about this outbox and then these.
    fn daemon(&self, answers: Vec<Vec<Value>>) {
        let listener = UnixListener::bind(self.path("control.sock")).unwrap();
        let outbox = self.path("outbox");
        thread::spawn(move || {
            for lines in answers {
                let (mut client, _) = listener.accept().unwrap();
                let mut request = String::new();
                BufReader::new(client.try_clone().unwrap()).read_line(&mut request).unwrap();
                assert_eq!(request, "{\"get\":\"uploads\"}\n");
                let head =
                    json!({ "outboxes": [outbox], "endpoint": "http://files/", "status": { "state": "sending" } });
                for mut line in [head].into_iter().chain(lines) {
                    if line["name"].is_string() {
                        line["outbox"] = json!(outbox);
                    }
                    // Whoever wants to know the outbox alone leaves early.
                    let _left = writeln!(client, "{line}");
                }
            }
        });
    }

    /// The whole command with these arguments; `--outbox` is ours. No daemon runs unless one was started.
    fn put(&self, arguments: &[&str]) -> Result<ExitCode, String> {
        self.put_into("outbox", arguments)
    }

    fn put_into(&self, outbox: &str, arguments: &[&str]) -> Result<ExitCode, String> {
        #[derive(clap::Parser)]
        struct Put {
            #[command(flatten)]
            args: Args,
        }
        let (outbox, socket) = (self.path(outbox), self.path("control.sock"));
        let fixed = ["put", "--outbox", outbox.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
        let parsed = Put::try_parse_from(fixed.iter().chain(arguments)).map_err(|error| error.to_string())?;
        put(&parsed.args, self.undo.clone(), &mut Bar::new()).map_err(|error| error.to_string())
    }
}

#[test]
fn a_file_appears_whole_with_its_time_and_readable_to_the_group() {
    let place = Place::new();
    let content: Vec<u8> = (0..=255).cycle().take(5_000_001).collect();
    let path = place.file("a.bin", &content);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let of_old = fs::metadata(&path).unwrap().modified().unwrap() - std::time::Duration::from_secs(1000);
    File::options().write(true).open(&path).unwrap().set_modified(of_old).unwrap();
    let mut told = Vec::new();
    let item = Item { source: Source::Path(&path), name: "b.bin", sidecar: None, moves: false };
    let taken = place.outbox().take(&item, &mut |done, total| told.push((done, total)));
    assert_eq!(taken.unwrap(), 5_000_001);
    assert_eq!(place.names(), ["b.bin"]);
    let there = place.path("outbox/b.bin");
    assert!(fs::read(&there).unwrap() == content);
    let metadata = fs::metadata(&there).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.modified().unwrap()), (0o640, of_old));
    assert!(told.is_empty() || told.last() == Some(&(5_000_001, Some(5_000_001))), "{told:?}");
    assert!(path.exists());
}

#[test]
fn a_file_without_a_length_is_read_to_its_end() {
    let place = Place::new();
    // Files in /proc have no length, and the kernel does not copy them.
    let taken = place.take(Path::new("/proc/self/maps"), "maps");
    assert_eq!(place.names(), ["maps"]);
    assert!(taken.is_ok() && fs::metadata(place.path("outbox/maps")).unwrap().len() > 0);
    assert_eq!(place.take(&place.file("empty", ""), "empty"), Ok(0));
}

#[test]
fn what_is_said_about_a_file_is_there_before_it() {
    let place = Place::new();
    let path = place.file("a.csv", "1,2\n");
    let path = path.to_str().unwrap();
    place
        .put(&["--priority", "high", "--type", "text/csv", "--meta", "machine=press 7", "--meta", "b=x=y", path])
        .unwrap();
    assert_eq!(place.names(), ["a.csv", "a.csv.meta.json"]);
    let said: Value = serde_json::from_slice(&fs::read(place.path("outbox/a.csv.meta.json")).unwrap()).unwrap();
    let expected = json!({ "priority": "high", "type": "text/csv", "metadata": { "machine": "press 7", "b": "x=y" } });
    assert_eq!(said, expected);
    for (arguments, complaint) in [
        (["--meta", "size=1"], "is filled in by the daemon"),
        (["--meta", "a b=1"], "is no name"),
        (["--type", "csv"], "is no media type"),
        (["--meta", "machine"], "there is no = in it"),
        (["--priority", "urgent"], "[possible values: high, normal, low]"),
    ] {
        let refused = place.put(&[&arguments[..], &["--name", "other", path]].concat()).unwrap_err();
        assert!(refused.contains(complaint), "{refused}");
    }
    let twice = place.put(&["--meta", "a=1", "--meta", "a=2", "--name", "other", path]).unwrap_err();
    assert!(twice.contains("\"a\" is said twice"), "{twice}");
    assert_eq!(place.names(), ["a.csv", "a.csv.meta.json"]);
}

#[test]
fn a_name_that_is_taken_is_never_written_over() {
    let place = Place::new();
    let path = place.file("a.csv", "new");
    fs::write(place.path("outbox/a.csv"), "old").unwrap();
    for moves in [false, true] {
        let refused = place.take_with(&path, "a.csv", None, moves).unwrap_err();
        assert!(refused.contains("holds a.csv already"), "{refused}");
    }
    fs::write(place.path("outbox/b.csv.meta.json"), "{}").unwrap();
    let refused = place.take_with(&path, "b.csv", Some(b"{}"), false).unwrap_err();
    assert!(refused.contains("holds b.csv.meta.json already"), "{refused}");
    assert_eq!(fs::read(place.path("outbox/a.csv")).unwrap(), b"old");
    assert_eq!(place.names(), ["a.csv", "b.csv.meta.json"]);
    assert!(path.exists());
}

#[test]
fn a_name_that_is_taken_meanwhile_is_not_written_over_either() {
    let place = Place::new();
    let path = place.file("a.csv", vec![7; 9 << 20]);
    let there = place.path("outbox/a.csv");
    let item = Item { source: Source::Path(&path), name: "a.csv", sidecar: Some(b"{}"), moves: false };
    // Where the file system clones, there is no moment in between to be earlier in.
    let mut taken_first = false;
    let taken = place.outbox().take(&item, &mut |_, _| {
        fs::write(&there, "old").unwrap();
        taken_first = true;
    });
    if taken_first {
        assert!(taken.unwrap_err().to_string().contains("holds a.csv already"));
        assert_eq!(fs::read(&there).unwrap(), b"old");
        assert_eq!(place.names(), ["a.csv"], "neither a part nor a sidecar is left");
    }
}

#[test]
fn a_moved_file_is_the_same_one_and_the_daemon_may_read_it() {
    let place = Place::new();
    let path = place.file("a.csv", "content");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(place.take_with(&path, "a.csv", Some(b"{}"), true), Ok(7));
    let there = fs::metadata(place.path("outbox/a.csv")).unwrap();
    assert_eq!((there.ino(), there.permissions().mode() & 0o7777), (inode, 0o640));
    assert_eq!(place.names(), ["a.csv", "a.csv.meta.json"]);
    assert!(!path.exists());
}

#[test]
fn a_moved_link_brings_what_it_leads_to_and_goes() {
    let place = Place::new();
    let path = place.file("a.csv", "content");
    symlink(&path, place.path("link")).unwrap();
    assert_eq!(place.take_with(&place.path("link"), "a.csv", None, true), Ok(7));
    assert!(fs::symlink_metadata(place.path("outbox/a.csv")).unwrap().is_file());
    assert!(path.exists() && fs::symlink_metadata(place.path("link")).is_err());
}

#[test]
fn a_part_that_a_dead_process_left_is_replaced_and_one_that_is_written_is_not() {
    let place = Place::new();
    let path = place.file("a.csv", "content");
    let part = place.path("outbox/.a.csv.part");
    fs::write(&part, "half").unwrap();
    assert_eq!(place.take(&path, "a.csv"), Ok(7));
    assert_eq!(place.names(), ["a.csv"]);

    let writing = File::create(place.path("outbox/.b.csv.part")).unwrap();
    writing.lock().unwrap();
    let refused = place.take(&path, "b.csv").unwrap_err();
    assert!(refused.contains("is being handed over by somebody else"), "{refused}");
    assert_eq!(place.names(), [".b.csv.part", "a.csv"]);
}

#[test]
fn an_interrupt_leaves_nothing_of_an_unfinished_file() {
    let place = Place::new();
    let path = place.file("a.csv", vec![7; 9 << 20]);
    let item = Item { source: Source::Path(&path), name: "a.csv", sidecar: Some(b"{}"), moves: false };
    let (outbox, undo) = (place.outbox(), place.undo.clone());
    let mut interrupted = false;
    let taken = outbox.take(&item, &mut |_, _| {
        if !interrupted {
            interrupted = true;
            // As from the thread that hears of signals; that one ends the process with the lock held.
            undo.all();
        }
    });
    if interrupted {
        assert!(taken.is_err(), "what was taken away cannot be renamed");
        assert_eq!(place.names(), [""; 0]);
    }
}

#[test]
fn what_cannot_be_handed_over_is_told_with_what_to_do() {
    let place = Place::new();
    let path = place.file("a.csv", "content");
    let path = path.to_str().unwrap();
    let long = "n".repeat(256);
    for (arguments, complaint) in [
        (&[path, "-"][..], "-: standard input needs a name (--name)"),
        (&["--name", "b", path, path], "--name is for one file"),
        (&["--name", "a/b", path], "\"a/b\": the name is that of a folder; give it another one (--name)"),
        (&["--name", "a.part", path], "the name is of a kind that the daemon leaves alone"),
        (&["--name", ".hidden", path], "the name is of a kind that the daemon leaves alone"),
        (&["--name", &long, path], "the name has over 255 bytes"),
        (&["/tmp"], "/tmp: is a folder; pack it first"),
        (&["--name", "null", "/dev/null"], "/dev/null: is no regular file"),
        (&["/absent/a.csv"], "look at /absent/a.csv: No such file"),
        (&["--name", &long[..250], "--priority", "low", path], "the name is too long for a sidecar"),
        (&["--wait", path], "tidegate is not running: nothing answers on"),
        (&["--list", path], "cannot be used with"),
        (&[], "required arguments were not provided"),
    ] {
        let refused = place.put(arguments).unwrap_err();
        assert!(refused.contains(complaint), "{arguments:?}: {refused}");
    }
    assert_eq!(place.names(), [""; 0]);
    let absent = Outbox::open(&place.path("absent"), Undo::default()).unwrap_err().to_string();
    assert!(absent.contains("there is no outbox") && absent.contains("--outbox"), "{absent}");
    let full = io::Error::from_raw_os_error(libc::EACCES);
    assert!(not_in("write to", Path::new("/var/spool/tidegate"), &full).contains("group tidegate-ingest"));
}

#[test]
fn waiting_ends_when_the_daemon_says_what_became_of_the_file() {
    let later = wait::up_ms() + 60_000;
    for (last, code) in [
        (json!({ "name": "a.csv", "state": "sent", "finished_up_ms": later }), ExitCode::SUCCESS),
        (json!({ "name": "a.csv", "state": "parked", "reason": "403 Forbidden" }), ExitCode::FAILURE),
    ] {
        let place = Place::new();
        let path = place.file("a.csv", "content");
        let earlier = json!({ "name": "a.csv", "state": "sent", "finished_up_ms": 1 });
        place.daemon(vec![vec![], vec![earlier], vec![json!({ "name": "other", "state": "active" }), last]]);
        let ended = place.put(&["--wait", path.to_str().unwrap()]).unwrap();
        // It has no other way to be compared.
        assert_eq!(format!("{ended:?}"), format!("{code:?}"));
        assert_eq!(place.names(), ["a.csv"]);
    }
}

#[test]
fn waiting_for_what_nobody_watches_is_refused_before_anything_is_handed_over() {
    let place = Place::new();
    let path = place.file("a.csv", "content");
    place.daemon(vec![vec![]]);
    fs::create_dir(place.path("elsewhere")).unwrap();
    let refused = place.put_into("elsewhere", &["--wait", path.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("is none of the daemon's outboxes"), "{refused}");
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 0);
}
