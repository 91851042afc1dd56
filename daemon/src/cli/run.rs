//! `tidegate run`: the daemon.

use std::process::ExitCode;

use super::{ConfigArg, check_config, provision};
use crate::{app, config::Environment, heap, logging};

/// Run the daemon in the foreground.
///
/// It logs to the journal where systemd started it, else to standard error. SIGHUP reads the configuration
/// again; SIGTERM and SIGINT stop it within 5 seconds. Where it was asked over MQTT to restart, it stops with exit status
/// 75 for systemd to start it again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: &Args) -> ExitCode {
    heap::stay_small();
    provision::at_start(&args.config);
    let local = match args.config.file().read(&Environment::of_process()) {
        Ok(local) => local,
        Err(errors) => return check_config::report(&errors),
    };
    let filter = match logging::start(&local.composed().config.log.filter) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: [log] filter: {error}");
            return ExitCode::from(super::CONFIG);
        }
    };
    // One worker for each CPU that we may use (the affinity mask and the cgroup's quota count); more than
    // four would only cost memory: the work between the spool and a socket does not spread further.
    let workers = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("tidegate")
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(app::run(&args.config.file(), local, filter));
            // What still hangs after the drain has had its time.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(app::StartError::Runtime(error)),
    };
    match ended {
        Ok(app::Ended::Stopped) => ExitCode::SUCCESS,
        Ok(app::Ended::ToRestart) => ExitCode::from(super::RESTART),
        Err(error) => {
            tracing::error!(%error, "tidegate cannot start");
            ExitCode::FAILURE
        }
    }
}
