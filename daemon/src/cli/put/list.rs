//! `tidegate put --list` and `--retry`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde_json::Value;

use super::{
    super::{
        client::SocketArg,
        status::{number, percent, text},
        table::{self, Table},
    },
    files,
};
use crate::control_socket::{Request, UploadRequest};

/// Rows of the table: what a person looks at. All of them are in the JSON.
const MAX_ROWS: usize = 1000;

/// Shows what is under way, what waits, what is parked, and what arrived lately.
pub(super) fn list(socket: &SocketArg, json: bool) -> ExitCode {
    let (head, lines) = match files::ask(socket) {
        Ok(answer) => answer,
        Err(error) => return error.report(),
    };
    let shown = if json { as_json(lines) } else { as_table(&head, lines) };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("put: {error}");
            ExitCode::FAILURE
        }
    }
}

fn as_json(lines: impl Iterator<Item = io::Result<Value>>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{}", line?)?;
    }
    out.flush()
}

fn as_table(head: &files::Head, lines: impl Iterator<Item = io::Result<Value>>) -> io::Result<()> {
    let mut rows = Table::new(["file", ">size", "priority", "state", ""]);
    let mut left_out = 0;
    for (index, line) in lines.enumerate() {
        let file = line?;
        if index < MAX_ROWS {
            rows.row(row(&file));
        } else {
            left_out += 1;
        }
    }
    let mut out = io::stdout().lock();
    if rows.is_empty() {
        let outboxes = table::printable(&head.outboxes.join(", "));
        writeln!(out, "nothing is waiting in {outboxes}")?;
    } else {
        write!(out, "{}", rows.render(""))?;
    }
    if left_out > 0 {
        writeln!(out, "and {left_out} more, which --json shows")?;
    }
    if head.endpoint.is_none() {
        writeln!(out, "no [upload] endpoint is set: files wait until there is one")?;
    }
    out.flush()
}

fn row(file: &Value) -> [String; 5] {
    let active = &file["active"];
    let note = match file["reason"].as_str() {
        Some(reason) => reason.to_owned(),
        None if active.is_object() => {
            let done = percent(number(&active["confirmed_bytes"]), number(&file["bytes"]));
            let rate = table::bytes(number(&active["rate_bytes_s"]));
            let left = active["remaining_s"].as_u64().map(|seconds| format!(", {} left", table::span(seconds)));
            format!("{done} %, {rate} a second{}", left.unwrap_or_default())
        }
        None => text(&file["url"]),
    };
    [text(&file["name"]), table::bytes(number(&file["bytes"])), text(&file["priority"]), text(&file["state"]), note]
}

/// Has parked files tried again.
pub(super) fn retry(socket: &SocketArg, json: bool) -> ExitCode {
    match socket.change::<Value>(&Request::Upload(UploadRequest::Retry), &[]) {
        Ok(answer) if json => println!("{answer}"),
        Ok(answer) => match number(&answer["files"]) {
            1 => println!("1 file was parked, and is tried again"),
            files => println!("{files} files were parked, and are tried again"),
        },
        Err(error) => return error.report(),
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_is_one_row_with_what_matters_of_it() {
        let row = |file: Value| row(&file).join("|");
        assert_eq!(
            row(json!({
                "name": "a.csv", "bytes": 2048, "priority": "high", "state": "active",
                "active": { "confirmed_bytes": 1024, "rate_bytes_s": 512, "remaining_s": 2 },
            })),
            "a.csv|2.0 KiB|high|active|50 %, 512 B a second, 2 s left"
        );
        assert_eq!(
            row(json!({ "name": "b", "bytes": 0, "priority": "low", "state": "parked", "reason": "403 Forbidden" })),
            "b|0 B|low|parked|403 Forbidden"
        );
        assert_eq!(
            row(json!({ "name": "c", "bytes": 1, "priority": "normal", "state": "waiting" })),
            "c|1 B|normal|waiting|"
        );
    }
}
