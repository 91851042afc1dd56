//! What the engine for uploads (`tidegate-upload`) goes by: the live configuration, and the credentials that it names.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate_upload::settings::Settings;
use tokio::sync::watch;

use crate::{config::Config, credentials::OfUploads};

/// Folder of journals in the state directory.
const FOLDER: &str = "uploads";

/// What the configuration says of uploads; journals are kept in the state directory.
#[must_use]
pub fn settings(config: &Arc<Config>, state_dir: &Path) -> Settings {
    let upload = &config.upload;
    let gateway = &config.gateway.id;
    Settings {
        gateway: gateway.clone(),
        outboxes: upload.outboxes.clone(),
        state_dir: state_dir.join(FOLDER),
        endpoint: upload.endpoint.as_ref().map(|endpoint| endpoint.of(gateway)),
        protocol: upload.protocol,
        http: upload.http,
        part_size_bytes: upload.part_size_bytes,
        compression: upload.compression,
        rate_limit: upload.rate_limit,
        windows: upload.windows.clone(),
        concurrency: upload.concurrency,
        metered: upload.metered.clone(),
        splay: upload.splay,
        settle: upload.settle,
        after: upload.after,
        verify: upload.verify,
        proxy: upload.proxy.clone(),
        connect_within: upload.connect_within,
        progress_within: upload.progress_within,
        total_within: upload.total_within,
        credentials: Arc::new(OfUploads(Arc::clone(config))),
    }
}

/// The settings, kept up to date as long as somebody changes the configuration and somebody listens.
#[must_use]
pub fn follow(mut config: watch::Receiver<Arc<Config>>, state_dir: PathBuf) -> watch::Receiver<Arc<Settings>> {
    let mut told = Arc::clone(&config.borrow_and_update());
    let (sender, followed) = watch::channel(Arc::new(settings(&told, &state_dir)));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = config.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            let now = Arc::clone(&config.borrow_and_update());
            if now.upload != told.upload || now.gateway.id != told.gateway.id {
                sender.send_replace(Arc::new(settings(&now, &state_dir)));
                told = now;
            }
        }
    });
    followed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::config::{Endpoint, judge};

    fn config(change: impl FnOnce(&mut Config)) -> Arc<Config> {
        let mut config = Config::defaults("gw-7");
        change(&mut config);
        Arc::new(config)
    }

    #[test]
    fn the_settings_are_those_of_the_configuration() {
        let config = config(|config| {
            for (name, value) in [
                ("upload.endpoint", "https://files.example/in/{gateway}"),
                ("upload.rate_limit", "64KiB"),
                ("upload.proxy", "http://proxy:3128"),
                ("upload.settle", "1m"),
            ] {
                judge(config, name, value).unwrap();
            }
        });
        let settings = settings(&config, Path::new("/var/lib/tidegate"));
        assert_eq!(settings.endpoint.unwrap().to_string(), "https://files.example/in/gw-7");
        assert_eq!((settings.gateway.as_str(), settings.rate_limit), ("gw-7", Some(65_536)));
        assert_eq!(settings.state_dir, Path::new("/var/lib/tidegate/uploads"));
        assert_eq!(settings.outboxes, [Path::new("/var/spool/tidegate")]);
        assert_eq!(settings.proxy.unwrap().port_u16(), Some(3128));
        assert_eq!(settings.settle, Duration::from_mins(1));
        assert_eq!(settings.credentials.authorization(), Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_of_uploads_is_handed_on_and_nothing_else_is() {
        let first = config(|_| ());
        let (changes, running) = watch::channel(first);
        let mut settings = follow(running, "/s".into());
        changes.send_replace(config(|config| config.log.filter = "warn".to_owned()));
        sleep(Duration::from_secs(1)).await;
        assert!(!settings.has_changed().unwrap());

        changes.send_replace(config(|config| config.upload.endpoint = Some(Endpoint::parse("http://files/").unwrap())));
        timeout(Duration::from_secs(1), settings.changed()).await.unwrap().unwrap();
        assert_eq!(settings.borrow_and_update().endpoint.as_ref().unwrap().host(), Some("files"));

        drop(settings);
        timeout(Duration::from_secs(1), changes.closed()).await.expect("nobody listens, nothing is followed");
    }
}
