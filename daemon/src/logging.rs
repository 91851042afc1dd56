//! Logs: to the journal with structured fields where systemd connected us to it, else to standard error.
//!
//! The filter is [`Targets`], not `EnvFilter`: it needs no regular expressions, which would cost the binary
//! half a megabyte.

use std::{env, io, os::fd::AsFd as _};

use tracing_subscriber::{
    Registry,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

/// Changes the filter while the daemon runs.
#[derive(Clone, Debug)]
pub struct FilterHandle(reload::Handle<Targets, Registry>);

impl FilterHandle {
    /// Puts new directives, such as `info,tidegate::uplink=debug`, in force.
    ///
    /// # Errors
    ///
    /// The directives cannot be parsed; the old ones stay.
    pub fn set(&self, directives: &str) -> Result<(), ParseError> {
        let targets = directives.parse::<Targets>()?;
        if let Err(error) = self.0.reload(targets) {
            tracing::warn!(%error, "the log filter was not changed");
        }
        Ok(())
    }
}

/// Starts logging for the whole process.
///
/// # Errors
///
/// The directives cannot be parsed.
pub fn start(directives: &str) -> Result<FilterHandle, ParseError> {
    let (filter, handle) = reload::Layer::new(directives.parse::<Targets>()?);
    let registry = tracing_subscriber::registry().with(filter);
    match journal() {
        Some(journal) => registry.with(journal).init(),
        None => {
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(rustix::termios::isatty(io::stderr()))).init();
        }
    }
    Ok(FilterHandle(handle))
}

/// The journal, where standard error is connected to it (systemd.exec(5), `$JOURNAL_STREAM`).
fn journal() -> Option<tracing_journald::Layer> {
    let stat = rustix::fs::fstat(io::stderr().as_fd()).ok()?;
    (env::var("JOURNAL_STREAM").ok()? == format!("{}:{}", stat.st_dev, stat.st_ino))
        .then(|| tracing_journald::layer().ok())
        .flatten()
}
