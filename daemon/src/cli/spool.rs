//! `tidegate spool`: looks into the spool on disk, with the daemon running or not. Nothing here changes it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::{Value, json};
use tidegate_spool::{
    Loss, LossReason,
    inspect::{self, FileReport, InspectError, Record, SegmentSummary, Summary},
};

use super::{
    CONFIG, ConfigArg, check_config,
    table::{self, Table},
};
use crate::{
    config::Environment,
    record::{Stored, Uuid},
};

/// Look into the spool on disk, with the daemon running or not.
///
/// Nothing is changed. Beside a running daemon, what is shown of cursors is a second old at most.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    config: ConfigArg,
    /// The spool's folder, instead of the one in the configuration
    #[arg(long, value_name = "FOLDER", global = true)]
    dir: Option<PathBuf>,
    /// JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lanes, streams, segment files, losses and what is in quarantine
    Ls,
    /// The records of a lane, oldest first, as the broker gets or got them
    #[command(after_help = "\
Examples:
  tidegate spool cat ingest --stream ingest/meter --from 100
  tidegate spool cat event --json | jq .data")]
    Cat {
        /// event, ingest or telemetry
        lane: String,
        /// Only this stream, such as ingest/meter
        #[arg(long)]
        stream: Option<String>,
        /// Only from this sequence on
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        from: u64,
        /// Also what was delivered already and is still on disk
        #[arg(long)]
        all: bool,
    },
    /// Verify the checksum of every record; exit status 1 where something is damaged
    Check,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let loaded = args.config.file().load(&Environment::of_process());
    let gateway = loaded.as_ref().map(|loaded| loaded.config.gateway.id.clone()).unwrap_or_default();
    let dir = match (&args.dir, loaded) {
        (Some(dir), _) => dir.clone(),
        (None, Ok(loaded)) => loaded.config.spool.dir,
        (None, Err(errors)) => {
            check_config::report(&errors);
            eprintln!("or name the spool's folder: --dir FOLDER");
            return ExitCode::from(CONFIG);
        }
    };
    let shown = match &args.what {
        What::Ls => ls(&dir, args.json),
        What::Cat { lane, stream, from, all } => cat(&dir, &gateway, lane, stream.as_deref(), *from, *all),
        What::Check => check(&dir, args.json),
    };
    match shown {
        Ok(code) => code,
        // A closed pipe is how `| head` ends us.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spool in {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("writing: {0}")]
    Output(#[from] io::Error),
}

fn ls(dir: &std::path::Path, json: bool) -> Result<ExitCode, Failed> {
    let summary = inspect::list(dir)?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", summary_as_json(&summary))?;
        return Ok(ExitCode::SUCCESS);
    }
    let epoch =
        summary.epoch.map_or_else(|| "unknown (no slot of meta is valid)".to_owned(), |id| Uuid(&id).to_string());
    writeln!(out, "epoch {epoch}, {}", if summary.held { "in use by a daemon" } else { "not in use" })?;
    let mut streams = Table::new(["lane", "stream", ">delivered to", ">next", ">lost"]);
    let mut segments = Table::new(["lane", ">segment", ">bytes", "state"]);
    for lane in &summary.lanes {
        for stream in &lane.streams {
            let delivered = stream.acked.saturating_sub(1);
            let figures = [delivered, stream.next_seq, stream.lost].map(|figure| figure.to_string());
            let [delivered, next, lost] = figures;
            streams.row([lane.name.clone(), stream.name.to_string(), delivered, next, lost]);
        }
        for segment in &lane.segments {
            let state = segment_state(segment).to_owned();
            segments.row([lane.name.clone(), segment.number.to_string(), table::bytes(segment.bytes), state]);
        }
    }
    for (title, table) in [("streams", streams), ("segments", segments)] {
        if !table.is_empty() {
            write!(out, "\n{title}\n{}", table.render("  "))?;
        }
    }
    if !summary.losses.is_empty() {
        writeln!(out, "\nlosses not reported yet")?;
        for loss in &summary.losses {
            let Loss { stream, from_seq, to_seq, count, reason, .. } = loss;
            writeln!(out, "  {stream} {from_seq} to {to_seq}: {count} records, {}", reason_name(*reason))?;
        }
    }
    if !summary.quarantined.is_empty() {
        writeln!(out, "\nquarantine")?;
        for file in &summary.quarantined {
            writeln!(out, "  {} ({})", table::printable(&file.name), table::bytes(file.bytes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

const fn segment_state(segment: &SegmentSummary) -> &'static str {
    match segment {
        SegmentSummary { readable: false, .. } => "not readable as a segment of this spool",
        SegmentSummary { delivered: true, .. } => "delivered",
        SegmentSummary { end: Some(_), .. } => "sealed",
        SegmentSummary { .. } => "open",
    }
}

const fn reason_name(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Evicted => "evicted",
        LossReason::Damaged => "damaged",
        LossReason::Unknown => "unknown",
    }
}

fn summary_as_json(summary: &Summary) -> Value {
    let lanes = summary.lanes.iter().map(|lane| {
        let streams = lane.streams.iter().map(|stream| {
            json!({ "name": &*stream.name, "delivered_to": stream.acked.saturating_sub(1),
                    "next_seq": stream.next_seq, "lost": stream.lost })
        });
        let segments = lane.segments.iter().map(
            |segment| json!({ "number": segment.number, "bytes": segment.bytes, "state": segment_state(segment) }),
        );
        json!({ "name": lane.name, "streams": streams.collect::<Value>(), "segments": segments.collect::<Value>() })
    });
    let losses = summary.losses.iter().map(|loss| {
        json!({ "stream": &*loss.stream, "from_seq": loss.from_seq, "to_seq": loss.to_seq, "count": loss.count,
                "reason": reason_name(loss.reason) })
    });
    let quarantine = summary.quarantined.iter().map(|file| json!({ "name": file.name, "bytes": file.bytes }));
    json!({
        "epoch": summary.epoch.map(|epoch| Uuid(&epoch).to_string()),
        "in_use": summary.held,
        "lanes": lanes.collect::<Value>(),
        "losses": losses.collect::<Value>(),
        "quarantine": quarantine.collect::<Value>(),
    })
}

/// The wire envelope of each record, one a line: what people read and what programs parse is the same.
fn cat(
    dir: &std::path::Path,
    gateway: &str,
    lane: &str,
    stream: Option<&str>,
    from: u64,
    all: bool,
) -> Result<ExitCode, Failed> {
    let epoch = inspect::list(dir)?.epoch.unwrap_or_default();
    let mut out = io::BufWriter::new(io::stdout().lock());
    for record in inspect::records(dir, lane, stream, from)? {
        let Record { stream, seq, ts_ms, delivered, payload, .. } = record;
        if delivered && !all {
            continue;
        }
        match Stored::decode(&payload) {
            Some(stored) => writeln!(out, "{}", stored.envelope(gateway, &epoch, &stream, seq, ts_ms))?,
            None => eprintln!("{stream} {seq}: not a record of this version, left out"),
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn check(dir: &std::path::Path, json: bool) -> Result<ExitCode, Failed> {
    let mut damaged = 0_u64;
    let mut files = 0_u64;
    let mut records = 0_u64;
    let mut written = Ok(());
    inspect::check(dir, |file| {
        files += 1;
        records += file.records;
        damaged += u64::from(file.is_damaged());
        if written.is_ok() {
            written = report(&file, json);
        }
    })?;
    written?;
    if json {
        println!("{}", json!({ "files": files, "records": records, "damaged_files": damaged }));
    } else {
        println!("{records} records in {files} files, {damaged} files damaged");
    }
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(file: &FileReport, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let ranges: Vec<_> = file.damaged.iter().map(|range| json!([range.start, range.end])).collect();
        return writeln!(
            out,
            "{}",
            json!({ "path": file.path, "lane": file.lane, "records": file.records, "damaged_bytes": file.damaged_bytes,
                    "damaged": ranges, "torn_bytes": file.torn_bytes, "problem": file.problem })
        );
    }
    let verdict = if file.is_damaged() { "DAMAGED" } else { "ok" };
    writeln!(out, "{verdict:<8} {} ({} records)", file.path.display(), file.records)?;
    if let Some(problem) = &file.problem {
        writeln!(out, "         {}", table::printable(problem))?;
    }
    for range in &file.damaged {
        writeln!(out, "         bytes {} to {} do not match their checksums", range.start, range.end)?;
    }
    if file.torn_bytes > 0 {
        writeln!(out, "         {} bytes behind the last whole commit: cut short, or under way", file.torn_bytes)?;
    }
    Ok(())
}
