//! Notices that certificates, key or password have been replaced while the connection they made still stands.
//!
//! They are read at each connect anyhow; but a connection may last for months, and the certificate it was made with may be
//! revoked or expire in between. So the files are looked at, and where they hold something else that is good, the session
//! ends in order and the next one is made with it. What is no good changes nothing but the status: whoever
//! replaces a certificate and its key does so one after the other.
//!
//! By content, not by time: a file system's times are as coarse as two seconds, and a copy may keep the original's.
//! systemd's credentials stay as they were at the start.

use std::{fs, time::Duration};

use tidegate_values::Digest;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{login, status::UplinkStatus};
use crate::config::Mqtt;

/// How often. A few kilobytes each time, out of the page cache.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What the files held; `None` where one is not named or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contents([Option<Digest>; 4]);

/// What they hold now: to be asked before they are read for a connection, so that no change is missed.
pub(super) async fn contents(mqtt: &Mqtt) -> Contents {
    let files = [&mqtt.ca, &mqtt.cert, &mqtt.key, &mqtt.password_file].map(Clone::clone);
    let read = spawn_blocking(move || files.map(|file| Some(Digest::of(&fs::read(file?).ok()?))));
    Contents(read.await.expect("reading files does not panic"))
}

/// Resolves once the files hold something other than `used`, and it is good.
pub(super) async fn renewed(mqtt: &Mqtt, used: Contents, status: &watch::Sender<UplinkStatus>) {
    let tls = mqtt.broker.as_ref().is_some_and(|broker| broker.tls);
    let mut judged = used;
    loop {
        sleep(LOOK_EVERY).await;
        let found = contents(mqtt).await;
        if found == judged {
            continue;
        }
        let problem = if found == used { None } else { judge(mqtt.clone(), tls).await.err() };
        if contents(mqtt).await != found {
            // Somebody is at it: what was judged is not what was found.
            continue;
        }
        judged = found;
        if let Some(problem) = &problem {
            warn!(%problem, "replaced credentials are not used; the connection goes on with those before");
        } else if found != used {
            info!("certificates, key or password were replaced: connecting anew with them");
        }
        let good = problem.is_none() && found != used;
        status.send_modify(|status| status.not_renewed = problem);
        if good {
            return;
        }
    }
}

async fn judge(mqtt: Mqtt, tls: bool) -> Result<(), String> {
    let read = spawn_blocking(move || login::read(&mqtt, tls)).await.expect("reading files does not panic");
    read.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::{config::Config, pki::samples};

    struct Files {
        folder: tempfile::TempDir,
        mqtt: Mqtt,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| -> Option<PathBuf> { Some(folder.path().join(name)) };
            let mut mqtt = Config::defaults("gw-7").mqtt;
            mqtt.broker = Some(crate::config::Broker::parse("mqtts://broker").unwrap());
            (mqtt.ca, mqtt.cert, mqtt.key) = (path("ca"), path("cert"), path("key"));
            let files = Self { folder, mqtt };
            files.write("ca", samples::CA);
            files.write("cert", samples::CERT);
            files.write("key", samples::KEY);
            files
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.folder.path().join(name), content).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn good_ones_are_noticed_and_bad_ones_are_told_until_they_are_mended() {
        let files = Files::new();
        let (status, seen) = watch::channel(UplinkStatus::default());
        let problem = || seen.borrow().not_renewed.clone();
        let used = contents(&files.mqtt).await;
        let mut renewed = Box::pin(renewed(&files.mqtt, used, &status));
        // Ends between two looks, so that none is under way while files are written.
        let mut looks = async |times: u32| timeout(LOOK_EVERY * times + LOOK_EVERY / 2, &mut renewed).await.is_ok();
        files.write("cert", samples::CERT);
        assert!(!looks(3).await, "the same content");

        files.write("key", samples::OTHER_KEY);
        assert!(!looks(3).await, "the certificate is not of this key");
        assert!(problem().is_some_and(|problem| problem.contains("do not belong together")), "{:?}", problem());
        files.write("cert", "nothing");
        assert!(!looks(3).await);
        assert!(problem().is_some_and(|problem| problem.contains("no certificate")), "{:?}", problem());

        files.write("cert", samples::CERT);
        files.write("key", samples::KEY);
        assert!(!looks(3).await, "what is in use was put back");
        assert_eq!(problem(), None);

        files.write("ca", &format!("{}{}", samples::CA, samples::CA));
        let begun = Instant::now();
        assert!(looks(1).await);
        assert!(begun.elapsed() <= LOOK_EVERY);
    }
}
