//! What the daemon knows of the files in its outboxes: `{"get":"uploads"}` of the control socket.

use std::io;

use serde::Deserialize;
use serde_json::Value;

use super::super::{
    client::{AskError, SocketArg},
    table::printable,
};
use crate::control_socket::Get;

/// The first line of the answer.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    /// Where files are handed over.
    pub(super) outboxes: Vec<String>,
    /// Where they go.
    pub(super) endpoint: Option<String>,
    /// How uploads are; as in the status.
    #[serde(default)]
    pub(super) status: Value,
}

/// Asks for the files; the lines behind the first are a file each.
pub(super) fn ask(socket: &SocketArg) -> Result<(Head, impl Iterator<Item = io::Result<Value>> + use<>), AskError> {
    let mut lines = socket.ask(Get::Uploads)?.map(|line| read(&line?));
    let head = match lines.next() {
        Some(head) => head.and_then(|head| serde_json::from_value(head).map_err(io::Error::from)),
        None => Err(io::Error::other("closed without an answer; too many clients are connected")),
    };
    let head = head.map_err(|source| socket.failed(source))?;
    Ok((head, lines))
}

/// A line; one that is an error is that.
fn read(line: &str) -> io::Result<Value> {
    let value: Value = serde_json::from_str(line)?;
    match value["error"].as_str() {
        Some(error) => Err(io::Error::other(printable(error))),
        None => Ok(value),
    }
}
