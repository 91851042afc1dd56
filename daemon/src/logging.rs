//! Logs: to the journal with structured fields where systemd connected us to it, else to standard error.
//!
//! In the journal a field `ifindex` is `TIDEGATE_IFINDEX` (docs/systemd.md): the prefix keeps them apart from those of
//! systemd and of other programs, so that `journalctl TIDEGATE_IFINDEX=2` means what it says.
//!
//! The filter is [`Targets`], not `EnvFilter`: it needs no regular expressions, which would cost the binary
//! half a megabyte.

use std::{
    env, io,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    Registry,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

/// What is logged: a level, or levels by module.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    directives: String,
    targets: Targets,
}

impl Filter {
    /// Reads directives, such as `info,tidegate::uplink=debug`.
    ///
    /// # Errors
    ///
    /// They cannot be parsed.
    pub fn parse(directives: &str) -> Result<Self, ParseError> {
        Ok(Self { targets: directives.parse()?, directives: directives.to_owned() })
    }

    /// The directives as they were written.
    #[must_use]
    pub fn directives(&self) -> &str {
        &self.directives
    }
}

/// Changes the filter while the daemon runs: the one place that knows what is configured and what is in force.
///
/// Another filter than the configured one can be put in force for a time. It stays in force when the configuration changes
/// meanwhile, and after it comes what is configured *then*.
#[derive(Clone, Debug)]
pub struct FilterHandle {
    in_force: reload::Handle<Targets, Registry>,
    wanted: Arc<Mutex<Wanted>>,
}

#[derive(Debug)]
struct Wanted {
    configured: Filter,
    for_a_time: Option<Filter>,
}

impl FilterHandle {
    fn new(configured: Filter) -> (reload::Layer<Targets, Registry>, Self) {
        let (layer, in_force) = reload::Layer::new(configured.targets.clone());
        (layer, Self { in_force, wanted: Arc::new(Mutex::new(Wanted { configured, for_a_time: None })) })
    }

    /// Takes the configuration's directives over: at once, or when the filter that was set for a time goes.
    ///
    /// # Errors
    ///
    /// The directives cannot be parsed; the old ones stay.
    pub fn configure(&self, directives: &str) -> Result<(), ParseError> {
        let configured = Filter::parse(directives)?;
        self.change(|wanted| wanted.configured = configured);
        Ok(())
    }

    /// Puts another filter in force, or the configured one again.
    pub fn for_a_time(&self, filter: Option<Filter>) {
        self.change(|wanted| wanted.for_a_time = filter);
    }

    /// The configured filter's directives.
    #[must_use]
    pub fn configured(&self) -> String {
        self.wanted().configured.directives.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        // Held until it is in force, so that of two changes the later one stays.
        let mut wanted = self.wanted();
        change(&mut wanted);
        let targets = wanted.for_a_time.as_ref().unwrap_or(&wanted.configured).targets.clone();
        let reloaded = self.in_force.reload(targets);
        drop(wanted);
        if let Err(error) = reloaded {
            tracing::warn!(%error, "the log filter was not changed");
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts logging for the whole process.
///
/// # Errors
///
/// The directives cannot be parsed.
pub fn start(directives: &str) -> Result<FilterHandle, ParseError> {
    let (filter, handle) = FilterHandle::new(Filter::parse(directives)?);
    let registry = tracing_subscriber::registry().with(filter);
    match journal() {
        Some(journal) => registry.with(journal).init(),
        None => {
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(rustix::termios::isatty(io::stderr()))).init();
        }
    }
    log_panics();
    Ok(handle)
}

/// Has a panic say what happened as an entry with a priority, too: the text that Rust writes to standard error, and
/// which needs nothing to work, reaches the journal as ordinary output.
fn log_panics() {
    let write_text = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        write_text(panic);
        let reason = panic.payload_as_str().unwrap_or("no reason given");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(reason, place, thread = std::thread::current().name(), "panicked");
    }));
}

/// The journal, where standard error is connected to it (systemd.exec(5), `$JOURNAL_STREAM`).
fn journal() -> Option<tracing_journald::Layer> {
    let stat = rustix::fs::fstat(io::stderr().as_fd()).ok()?;
    if env::var("JOURNAL_STREAM").ok()? != format!("{}:{}", stat.st_dev, stat.st_ino) {
        return None;
    }
    let journal = tracing_journald::layer().ok()?;
    Some(
        journal
            .with_field_prefix(Some("TIDEGATE".to_owned()))
            .with_syslog_identifier("tidegate".to_owned())
            // As syslog(3) means them: "notice" is normal but significant, which `info` is not here.
            .with_priority_mappings(PriorityMappings {
                info: Priority::Informational,
                debug: Priority::Debug,
                ..PriorityMappings::new()
            }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_filter_for_a_time_comes_what_is_configured_then() {
        let (_layer, log) = FilterHandle::new(Filter::parse("info").unwrap());
        let in_force = || log.in_force.clone_current().unwrap().to_string();
        assert_eq!(in_force(), "info");
        log.for_a_time(Some(Filter::parse("debug").unwrap()));
        assert_eq!((in_force(), log.configured()), ("debug".to_owned(), "info".to_owned()));
        log.configure("warn").unwrap();
        assert_eq!(in_force(), "debug", "the configuration does not end it");
        log.for_a_time(Some(Filter::parse("trace").unwrap()));
        assert_eq!(in_force(), "trace");
        log.for_a_time(None);
        assert_eq!(in_force(), "warn");
        assert!(log.configure("tidegate=loud").is_err());
        assert_eq!((in_force(), log.configured()), ("warn".to_owned(), "warn".to_owned()));
        log.configure("error").unwrap();
        assert_eq!(in_force(), "error");
    }
}
