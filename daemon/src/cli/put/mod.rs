//! `tidegate put`: hands over files, and says what became of them.
//!
//! Handing over takes no daemon: it is a rename into a folder ([`outbox`]). What became of a file the daemon knows ([`files`]).

mod bar;
mod files;
mod list;
mod outbox;
mod wait;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    thread,
};

use serde_json::json;
use tidegate_upload::outbox::{
    names::{check, is_left_alone},
    sidecar,
};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    bar::Bar,
    outbox::{Item, Outbox, Source, Undo},
    wait::{Fate, Handed},
};
use super::client::{AskError, SocketArg};
use crate::config::DEFAULT_OUTBOX;

/// Exit status of a command that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;
/// How standard input is called.
const STDIN: &str = "-";

/// Hand files over to be uploaded.
///
/// Each file is copied into the daemon's outbox, and appears there once all of it is on disk: from then on it is
/// uploaded to `[upload] endpoint`, whatever happens in between. The command ends with status 0 when all files are in the
/// outbox; with --wait when they have arrived at the server.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[command(after_help = "\
Examples:
  tidegate put readings.csv                              it goes when its turn comes
  tidegate put --wait --priority high alarm.json         it goes first; wait until it has arrived
  tidegate put --move --meta machine=press-7 *.log       without a copy, and with a word for the server
  tar c /var/log | tidegate put --name logs.tar -        standard input
  tidegate put --list                                    what is under way, waits, is parked

Exit status: 0 in the outbox (with --wait: arrived), 1 not, or parked, 3 tidegate is not running (--wait, --list, --retry).")]
pub(super) struct Args {
    /// Files to hand over; `-` is standard input, and needs --name
    #[arg(value_name = "FILE", required_unless_present_any = ["list", "retry"])]
    files: Vec<PathBuf>,
    /// What the file is called at the server [default: as it is called here]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Which files go first
    #[arg(long, value_parser = ["high", "normal", "low"])]
    priority: Option<String>,
    /// What the content is, as a media type: text/csv
    #[arg(long = "type", value_name = "TYPE")]
    media_type: Option<String>,
    /// Something for the server to know; several times for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = entry)]
    meta: Vec<(String, String)>,
    /// Where to hand over [default: the running daemon's first outbox, else /var/spool/tidegate]
    #[arg(long, value_name = "FOLDER")]
    outbox: Option<PathBuf>,
    /// Take the files away from where they are; on one file system without copying them
    #[arg(long = "move")]
    moves: bool,
    /// Wait until the files have arrived, or one of them is parked
    #[arg(long)]
    wait: bool,
    /// Show what is under way, waits, is parked and arrived lately
    #[arg(long, conflicts_with_all = ["files", "name", "priority", "media_type", "meta", "outbox", "moves", "wait", "retry"])]
    list: bool,
    /// Try parked files once more
    #[arg(long, conflicts_with_all = ["files", "name", "priority", "media_type", "meta", "outbox", "moves", "wait"])]
    retry: bool,
    /// One JSON object a file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

fn entry(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("there is no = in it")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn run(args: &Args) -> ExitCode {
    if args.list {
        return list::list(&args.socket, args.json);
    }
    if args.retry {
        return list::retry(&args.socket, args.json);
    }
    let undo = Undo::default();
    take_away_when_interrupted(undo.clone());
    let mut bar = Bar::new();
    let put = put(args, undo, &mut bar);
    bar.clear();
    match put {
        Ok(code) => code,
        Err(PutError::Ask(error)) => error.report(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a file is not handed over.
#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error("{}", not_in(.call, .outbox, .source))]
    Outbox { call: &'static str, outbox: PathBuf, source: io::Error },
    #[error("{call} {}: {source}", .path.display())]
    Source { call: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {fault}", .path.display())]
    NotAFile { path: PathBuf, fault: &'static str },
    #[error("{name:?}: the name {fault}; give it another one (--name)")]
    Name { name: String, fault: &'static str },
    #[error("{}: {fault}", .path.display())]
    NoName { path: PathBuf, fault: &'static str },
    #[error("what is said about the file: {0}")]
    Sidecar(String),
    #[error("{} holds {name} already\n  give it another name (--name), or wait until that one is sent", .outbox.display())]
    Taken { name: String, outbox: PathBuf },
    #[error("{name} is being handed over by somebody else\n  if not, remove the leftover {hidden} from the outbox")]
    UnderWay { name: String, hidden: String },
    #[error("no space left in {}: {what}\n  nothing was handed over of it", .outbox.display())]
    NoSpace { outbox: PathBuf, what: String },
    #[error("{} changed while it was copied\n  hand it over when it is complete", .path.display())]
    Changed { path: PathBuf },
    #[error("{} cannot be taken away from where it is: {source}\n  without --move it is copied", .path.display())]
    NotMoved { path: PathBuf, source: io::Error },
    #[error("{} is handed over, but cannot be removed from where it is: {source}", .path.display())]
    NotRemoved { path: PathBuf, source: io::Error },
    #[error(
        "no [upload] endpoint is set, so nothing would arrive\n  without --wait it is handed over, and waits in the outbox"
    )]
    NoEndpoint,
    #[error("{} is none of the daemon's outboxes: {outboxes}", .outbox.display())]
    NotWatched { outbox: PathBuf, outboxes: String },
    #[error(transparent)]
    Ask(#[from] AskError),
}

fn not_in(call: &str, outbox: &Path, source: &io::Error) -> String {
    let path = outbox.display();
    match source.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "there is no outbox {path}\n  the package makes /var/spool/tidegate; another one is named by --outbox"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("no permission to {call} {path}\n  become a member of the group tidegate-ingest, or use sudo")
        }
        _ => format!("{call} {path}: {source}"),
    }
}

/// Hands all files over, one after the other; the first that is not ends it.
fn put(args: &Args, undo: Undo, bar: &mut Bar) -> Result<ExitCode, PutError> {
    let named = args.files.iter().map(|path| Ok((path.as_path(), name_of(path, args)?)));
    let named: Vec<(&Path, &str)> = named.collect::<Result<_, PutError>>()?;
    let sidecar = sidecar_of(args)?;
    let outbox = Outbox::open(&folder(args)?, undo)?;

    let mut handed = Vec::new();
    for (path, name) in named {
        bar.begin();
        let source = if path == Path::new(STDIN) { Source::Stdin } else { Source::Path(path) };
        let item = Item { source, name, sidecar: sidecar.as_deref(), moves: args.moves };
        let mut file = Handed::at(name, wait::up_ms());
        file.bytes = outbox.take(&item, &mut |done, total| bar.copied(name, done, total))?;
        if args.json && !args.wait {
            println!("{}", json!({ "name": name, "outbox": outbox.path(), "bytes": file.bytes, "state": "waiting" }));
        }
        handed.push(file);
    }
    bar.clear();
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    wait::wait(&args.socket, &outbox, &mut handed, bar)?;
    bar.clear();
    let mut code = ExitCode::SUCCESS;
    for file in &handed {
        if !tell(file, &outbox, args.json) {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Says what became of a file; whether it arrived.
fn tell(Handed { name, bytes, fate, .. }: &Handed, outbox: &Outbox, as_json: bool) -> bool {
    let (state, reason, url) = match fate {
        Fate::Sent { url } => ("sent", None, url.as_deref()),
        Fate::Parked { reason } => ("parked", Some(reason.as_str()), None),
        Fate::Waits | Fate::Unknown => {
            ("unknown", Some("it left the outbox, and the daemon does not know whether it arrived"), None)
        }
    };
    if as_json {
        let told = json!({
            "name": name, "outbox": outbox.path(), "bytes": bytes, "state": state, "reason": reason, "url": url,
        });
        println!("{told}");
    } else if let Some(reason) = reason {
        eprintln!("{}: {state}: {}", super::table::printable(name), super::table::printable(reason));
        if state == "parked" {
            eprintln!("  mend that, then: tidegate put --retry");
        }
    }
    state == "sent"
}

/// Under which name a file is handed over.
fn name_of<'a>(path: &'a Path, args: &'a Args) -> Result<&'a str, PutError> {
    let no_name = |fault| PutError::NoName { path: path.to_owned(), fault };
    let is_stdin = path == Path::new(STDIN);
    let name = match &args.name {
        Some(_) if args.files.len() > 1 => return Err(no_name("--name is for one file")),
        Some(name) => name.as_bytes(),
        None if is_stdin => return Err(no_name("standard input needs a name (--name)")),
        None => path.file_name().ok_or_else(|| no_name("has no name; --name gives it one"))?.as_encoded_bytes(),
    };
    let shown = || String::from_utf8_lossy(name).into_owned();
    let name = check(name).map_err(|fault| PutError::Name { name: shown(), fault })?;
    if is_left_alone(name.as_bytes()) {
        let fault = "is of a kind that the daemon leaves alone: hidden, unfinished, or a sidecar";
        return Err(PutError::Name { name: shown(), fault });
    }
    if is_stdin {
        return Ok(name);
    }
    let not_a_file = |fault| Err(PutError::NotAFile { path: path.to_owned(), fault });
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => not_a_file("is a folder; pack it first, as with tar"),
        Ok(found) if !found.is_file() => not_a_file("is no regular file; - reads standard input"),
        Ok(_) => Ok(name),
        Err(source) => Err(PutError::Source { call: "look at", path: path.to_owned(), source }),
    }
}

/// What stands beside each file; `None` where nothing is to be said.
fn sidecar_of(args: &Args) -> Result<Option<Vec<u8>>, PutError> {
    let mut said = serde_json::Map::new();
    if let Some(priority) = &args.priority {
        said.insert("priority".to_owned(), json!(priority));
    }
    if let Some(media_type) = &args.media_type {
        said.insert("type".to_owned(), json!(media_type));
    }
    if !args.meta.is_empty() {
        let mut metadata = serde_json::Map::new();
        for (key, value) in &args.meta {
            if metadata.insert(key.clone(), json!(value)).is_some() {
                return Err(PutError::Sidecar(format!("{key:?} is said twice")));
            }
        }
        said.insert("metadata".to_owned(), metadata.into());
    }
    if said.is_empty() {
        return Ok(None);
    }
    let text = serde_json::Value::from(said).to_string().into_bytes();
    // As the daemon will.
    sidecar::parse(&text).map_err(PutError::Sidecar)?;
    Ok(Some(text))
}

/// The outbox: the one that is named, else the running daemon's first, else the usual one.
fn folder(args: &Args) -> Result<PathBuf, PutError> {
    let usual = || args.outbox.clone().unwrap_or_else(|| DEFAULT_OUTBOX.into());
    if !args.wait && args.outbox.is_some() {
        return Ok(usual());
    }
    let head = match files::ask(&args.socket) {
        Ok((head, _)) => head,
        // Handing over takes no daemon, and no permission to ask it.
        Err(_) if !args.wait => return Ok(usual()),
        Err(error) => return Err(error.into()),
    };
    let outbox = match (&args.outbox, head.outboxes.first()) {
        (Some(outbox), _) => outbox.clone(),
        (None, Some(first)) => first.into(),
        (None, None) => usual(),
    };
    if args.wait && head.endpoint.is_none() {
        return Err(PutError::NoEndpoint);
    }
    if args.wait && !head.outboxes.iter().any(|watched| Path::new(watched) == outbox) {
        return Err(PutError::NotWatched { outbox, outboxes: head.outboxes.join(", ") });
    }
    Ok(outbox)
}

/// Takes away what is unfinished when somebody ends us, and ends us.
fn take_away_when_interrupted(undo: Undo) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Without an event queue a signal ends us as it ends anybody; what is left then is hidden.
        let Ok(runtime) = runtime else { return };
        let came = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).ok()?;
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            let mut hangup = signal(SignalKind::hangup()).ok()?;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            Some(())
        });
        if came.is_some() {
            let unfinished = undo.for_good();
            let state =
                if unfinished { "nothing was handed over of the last file" } else { "what is in the outbox is sent" };
            eprintln!("\ninterrupted\n  {state}");
            process::exit(INTERRUPTED);
        }
    });
}

#[cfg(test)]
mod tests;
