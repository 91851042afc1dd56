//! When the certificates of the connections to the broker and to the endpoint of uploads expire, and the alarms before that.
//!
//! A certificate that nobody renews cuts the gateway off for good, on a day that is known: so it is told with each
//! sample, and as `event/incident` once at each of [`ALARMS`].

use std::{collections::BTreeMap, fs, path::Path};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{config::Config, pki, record::Stamp};

const DAY_S: i64 = 86_400;
const TWO_DAYS_S: i64 = 2 * DAY_S;
/// Seconds of validity that are left when there is an alarm: for a person with other work, for one who has to
/// hurry, for one who is late; and when it is too late.
const ALARMS: [i64; 4] = [30 * DAY_S, 7 * DAY_S, DAY_S, 0];

/// One file's certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// `cert`, the gateway's own and its chain, or `ca`, the authorities that it trusts: those of `[mqtt]`. `upload-cert` and
    /// `upload-ca` are those of `[upload]`.
    pub which: &'static str,
    /// When the first of a chain expires, or the last of the authorities: from then on there is no connection.
    /// Milliseconds since 1970.
    pub not_after_ms: u64,
    /// Seconds until then, negative afterwards; absent while the clock is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<i64>,
}

impl Certificate {
    /// How many alarms are due.
    fn alarms(&self) -> usize {
        let left = self.expires_in_s.unwrap_or(i64::MAX);
        ALARMS.iter().filter(|alarm| left < **alarm).count()
    }

    /// What a person should know, from the first alarm on.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let left = self.expires_in_s.filter(|_| self.alarms() > 0)?;
        let whose = match self.which {
            "cert" => "the gateway's certificate ([mqtt] cert)",
            "upload-cert" => "the gateway's certificate for uploads ([upload] cert)",
            "upload-ca" => "the last of the authorities that are trusted with uploads ([upload] ca)",
            _ => "the last of the authorities that are trusted ([mqtt] ca)",
        };
        Some(match left {
            ..0 => format!("{whose} has expired"),
            0..TWO_DAYS_S => format!("{whose} expires in {} hours", left / 3600),
            _ => format!("{whose} expires in {} days", left / DAY_S),
        })
    }
}

/// Those of the configuration. What cannot be told goes to `unavailable`.
pub(super) fn certificates(
    config: &Config,
    now: &Stamp,
    unavailable: &mut BTreeMap<String, String>,
) -> Vec<Certificate> {
    let mut found = Vec::new();
    let (mqtt, upload) = (&config.mqtt, &config.upload);
    let files = [("cert", &mqtt.cert), ("ca", &mqtt.ca), ("upload-cert", &upload.cert), ("upload-ca", &upload.ca)];
    for (which, file) in files {
        let Some(file) = file else { continue };
        match ends(file) {
            Ok(ends) => {
                let decides = if which.ends_with("cert") { ends.iter().min() } else { ends.iter().max() };
                found.extend(decides.map(|not_after_ms| Certificate {
                    which,
                    not_after_ms: *not_after_ms,
                    expires_in_s: now.synced.then(|| seconds_between(now.ts_ms, *not_after_ms)),
                }));
            }
            Err(why) => {
                unavailable.insert(format!("certificates/{which}"), why);
            }
        }
    }
    found
}

/// When each certificate of a file expires.
fn ends(file: &Path) -> Result<Vec<u64>, String> {
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    let ends: Vec<u64> = pki::certificates(&pem)?.iter().filter_map(pki::not_after_ms).collect();
    if ends.is_empty() { Err("a certificate without an end".to_owned()) } else { Ok(ends) }
}

fn seconds_between(now_ms: u64, then_ms: u64) -> i64 {
    let seconds = |ms: u64| i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    seconds(then_ms) - seconds(now_ms)
}

/// Which alarms were given, by file: for which end, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Alarms(BTreeMap<&'static str, (u64, usize)>);

impl Alarms {
    /// The alarms that are due and were not given yet, the latest of each certificate, and what has been given when
    /// they are on disk. After a restart of the daemon the latest alarm is given again.
    pub(super) fn due(&self, certificates: &[Certificate]) -> (Vec<Value>, Self) {
        let mut given = BTreeMap::new();
        let mut due = Vec::new();
        for certificate in certificates {
            let before = self.0.get(certificate.which).filter(|(end, _)| *end == certificate.not_after_ms);
            let before = before.map_or(0, |(_, count)| *count);
            // A clock that was set back gives no alarm a second time.
            let count = certificate.alarms().max(before);
            given.insert(certificate.which, (certificate.not_after_ms, count));
            if count > before
                && let Some(detail) = certificate.warning()
            {
                due.push(json!({
                    "what": "certificate_expiring",
                    "which": certificate.which,
                    "not_after_ms": certificate.not_after_ms,
                    "expires_in_s": certificate.expires_in_s,
                    "detail": detail,
                }));
            }
        }
        (due, Self(given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, pki::samples};

    /// The end of the sample certificate: 2049-01-01.
    const END_MS: u64 = 2_493_072_000_000;

    fn stamp(ts_ms: u64, synced: bool) -> Stamp {
        Stamp { boot: [0; 16], ts_ms, up_ms: 0, synced }
    }

    fn expiring_in(expires_in_s: i64) -> Certificate {
        Certificate { which: "cert", not_after_ms: END_MS, expires_in_s: Some(expires_in_s) }
    }

    #[test]
    fn the_first_end_of_a_chain_counts_and_the_last_of_authorities() {
        let folder = tempfile::tempdir().unwrap();
        let both = folder.path().join("both.pem");
        fs::write(&both, format!("{}{}", samples::CA, samples::CERT)).unwrap();
        let mut config = Config::defaults("gw-1");
        (config.mqtt.cert, config.mqtt.ca) = (Some(both.clone()), Some(both.clone()));
        (config.upload.cert, config.upload.ca) = (Some(both.clone()), Some(both));
        let mut unavailable = BTreeMap::new();
        let found = certificates(&config, &stamp(END_MS - 7000, true), &mut unavailable);
        assert_eq!(found[0], expiring_in(7));
        assert_eq!((found[1].which, found[1].not_after_ms), ("ca", 2_566_969_689_000));
        assert_eq!(found[2], Certificate { which: "upload-cert", ..expiring_in(7) });
        assert_eq!((found[3].which, found[3].not_after_ms), ("upload-ca", 2_566_969_689_000));
        assert_eq!(
            found[2].warning().unwrap(),
            "the gateway's certificate for uploads ([upload] cert) expires in 0 hours"
        );
        assert_eq!(certificates(&config, &stamp(END_MS + 9000, true), &mut unavailable)[0].expires_in_s, Some(-9));
        assert_eq!(certificates(&config, &stamp(7000, false), &mut unavailable)[0].expires_in_s, None);
        assert!(unavailable.is_empty());

        config.mqtt.cert = Some(folder.path().join("absent.pem"));
        assert_eq!(certificates(&config, &stamp(0, true), &mut unavailable).len(), 3);
        assert!(unavailable["certificates/cert"].contains("No such file"), "{unavailable:?}");
    }

    #[test]
    fn an_alarm_is_given_once_at_each_limit_and_again_for_a_renewed_certificate() {
        let mut alarms = Alarms::default();
        let mut due = |certificate: Certificate| -> Vec<String> {
            let (due, given) = alarms.due(&[certificate]);
            alarms = given;
            due.iter().map(|event| event["detail"].as_str().unwrap().to_owned()).collect()
        };
        let told = |text: &str| vec![format!("the gateway's certificate ([mqtt] cert) {text}")];
        assert_eq!(due(expiring_in(31 * DAY_S)), [""; 0]);
        assert_eq!(due(expiring_in(30 * DAY_S - 1)), told("expires in 29 days"));
        assert_eq!(due(expiring_in(8 * DAY_S)), [""; 0]);
        assert_eq!(due(expiring_in(20 * DAY_S)), [""; 0], "the clock was set back");
        // Switched off for some days: one alarm, not two.
        assert_eq!(due(expiring_in(7200)), told("expires in 2 hours"));
        assert_eq!(due(expiring_in(-1)), told("has expired"));
        assert_eq!(due(expiring_in(-DAY_S)), [""; 0]);
        let renewed = Certificate { not_after_ms: END_MS + 1, ..expiring_in(6 * DAY_S) };
        assert_eq!(due(renewed), told("expires in 6 days"));
    }

    #[test]
    fn without_a_clock_there_is_no_alarm() {
        let certificate = Certificate { expires_in_s: None, ..expiring_in(0) };
        assert_eq!((certificate.warning(), certificate.alarms()), (None, 0));
    }
}
