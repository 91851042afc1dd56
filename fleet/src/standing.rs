//! Whether a gateway is as wanted, and if not, why. Pure: what is wanted and what it reports in, one word out.
//!
//! A gateway has several documents (its groups', its own), and is as wanted when each is confirmed, or withdrawn where
//! there is to be none. Otherwise the worst of them decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use tidegate_values::Digest;

use crate::{
    folder::Folder,
    plan::Plan,
    report::{Reported, State},
    seen::{Gateway, Seen},
    target::Target,
};

/// What the broker is to hold: version and digest by target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    documents: BTreeMap<Target, (u64, Digest)>,
    /// What the broker holds for these is not what the folder says.
    unpublished: BTreeSet<Target>,
}

impl Wanted {
    /// As the plan leaves it, once everything is published.
    #[must_use]
    pub fn after(plan: &Plan, folder: &Folder) -> Self {
        let published = plan.changes.iter().filter_map(|change| {
            let version = change.version?;
            let payload = folder.get(&change.target)?.payload(version);
            Some((change.target.clone(), (version, Digest::of(&payload))))
        });
        Self { documents: plan.unchanged.clone().into_iter().chain(published).collect(), unpublished: BTreeSet::new() }
    }

    /// As it is, where the plan is not carried out.
    #[must_use]
    pub fn without(plan: &Plan) -> Self {
        Self {
            documents: plan.unchanged.clone(),
            unpublished: plan.changes.iter().map(|change| change.target.clone()).collect(),
        }
    }

    /// The broker does not hold what is wanted for this target, and will not.
    pub fn given_up(&mut self, target: &Target) {
        self.unpublished.insert(target.clone());
    }

    /// All gateways that there is something to say about: those at the broker, and those that the folder names.
    #[must_use]
    pub fn gateways(&self, seen: &Seen) -> BTreeSet<Arc<str>> {
        let named = self.documents.keys().chain(&self.unpublished).filter_map(|target| match target {
            Target::Gateway(id) => Some(Arc::clone(id)),
            Target::Group(_) => None,
        });
        seen.gateways().map(|(id, _)| Arc::clone(id)).chain(named).collect()
    }

    /// Whether there is a document for this target.
    fn names(&self, target: &Target) -> bool {
        self.documents.contains_key(target) || self.unpublished.contains(target)
    }
}

/// How a gateway stands, from well to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// What it reports is what is wanted.
    AsWanted,
    /// It is online, and has not reported what is wanted yet.
    Waiting,
    /// It is offline, and gets what is wanted when it is back.
    Offline,
    /// A part of it takes effect with the next start of its daemon.
    PendingRestart,
    /// It is named in the folder, and the broker knows nothing of it.
    Absent,
    /// It does not report, so nobody knows: a daemon without remote configuration.
    NoReport,
    /// The broker does not hold what the folder says.
    Unpublished,
    /// It put the last confirmed state back.
    RolledBack,
    /// It refused a document.
    Refused,
}

impl Standing {
    /// All, from well to bad.
    pub const ALL: [Self; 9] = [
        Self::AsWanted,
        Self::Waiting,
        Self::Offline,
        Self::PendingRestart,
        Self::Absent,
        Self::NoReport,
        Self::Unpublished,
        Self::RolledBack,
        Self::Refused,
    ];
}

/// As in `--json`.
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AsWanted => "as-wanted",
            Self::Waiting => "waiting",
            Self::Offline => "offline",
            Self::PendingRestart => "pending-restart",
            Self::Absent => "absent",
            Self::NoReport => "no-report",
            Self::Unpublished => "unpublished",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
        })
    }
}

/// How a gateway stands, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// How.
    pub standing: Standing,
    /// The document that decides, where one does.
    pub target: Option<Target>,
    /// What the gateway says about it.
    pub reason: Option<Box<str>>,
    /// Seconds until the gateway tries again by itself.
    pub next_attempt_s: Option<u64>,
    /// It is offline, and was online a moment ago: a broker that restarts loses all of them at once.
    pub may_return: bool,
}

impl Judged {
    fn as_wanted() -> Self {
        Self::plain(Standing::AsWanted)
    }

    fn plain(standing: Standing) -> Self {
        Self { standing, target: None, reason: None, next_attempt_s: None, may_return: false }
    }

    /// Whether nothing will change while this is watched: it is as wanted, or a person is needed, or it is away.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        match self.standing {
            Standing::Waiting => false,
            Standing::Offline => !self.may_return,
            Standing::RolledBack => self.next_attempt_s.is_none(),
            _ => true,
        }
    }
}

/// Judges one gateway.
#[must_use]
pub fn judge(id: &Arc<str>, gateway: Option<&Gateway>, wanted: &Wanted) -> Judged {
    let own = Target::Gateway(Arc::clone(id));
    let Some(gateway) = gateway else { return Judged::plain(Standing::Absent) };
    let report = match &gateway.report {
        Some(Ok(report)) => report,
        Some(Err(unreadable)) => {
            return Judged { reason: Some(unreadable.clone()), ..Judged::plain(Standing::NoReport) };
        }
        None if gateway.report_due && gateway.online != Some(false) => return Judged::plain(Standing::Waiting),
        None => return Judged::plain(Standing::NoReport),
    };
    let groups = report.groups.iter().map(|(group, about)| (Target::Group(Arc::clone(group)), about));
    let mut worst = Judged::as_wanted();
    for (target, about) in groups.chain([(own, &report.device)]) {
        let mut judged = source(&target, about, wanted);
        if judged.standing == Standing::Waiting && gateway.online != Some(true) {
            judged.standing = Standing::Offline;
            judged.may_return = gateway.was_online;
        }
        if judged.standing > worst.standing {
            worst = Judged { target: Some(target), ..judged };
        }
    }
    worst
}

fn source(target: &Target, about: &Reported, wanted: &Wanted) -> Judged {
    let because = |standing| Judged {
        reason: about.reason.clone(),
        next_attempt_s: about.next_attempt_s,
        ..Judged::plain(standing)
    };
    if wanted.unpublished.contains(target) {
        return Judged::plain(Standing::Unpublished);
    }
    let Some((version, digest)) = wanted.documents.get(target).copied() else {
        debug_assert!(!wanted.names(target));
        return if about.confirmed.is_none() { Judged::as_wanted() } else { Judged::plain(Standing::Waiting) };
    };
    let is_about_it = about.version == Some(version) && about.digest.is_none_or(|reported| reported == digest);
    match about.state {
        State::PendingRestart if is_about_it => because(Standing::PendingRestart),
        _ if about.confirmed == Some((version, digest)) => Judged::as_wanted(),
        State::Refused | State::Expired if is_about_it => because(Standing::Refused),
        State::RolledBack if is_about_it => because(Standing::RolledBack),
        _ => Judged::plain(Standing::Waiting),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::target::Topic;

    const OTHER: &[u8] = b"another document";
    const WANTED: &[u8] = b"the wanted document";

    /// Version 7 of `WANTED` for the group, nothing for the gateway itself.
    fn wanted() -> Wanted {
        let documents = [(Target::Group("plant".into()), (7, Digest::of(WANTED)))];
        Wanted { documents: documents.into(), unpublished: BTreeSet::new() }
    }

    fn entry(version: u64, payload: &[u8], state: &str, confirmed: Option<(u64, &[u8])>) -> Value {
        let confirmed = confirmed.map(|(version, payload)| json!({"version": version, "digest": Digest::of(payload)}));
        json!({
            "group": "plant", "version": version, "digest": Digest::of(payload), "state": state, "reason": "because",
            "confirmed": confirmed,
        })
    }

    fn judged(online: bool, entry: &Value) -> Judged {
        let report = json!({"state": "confirmed", "version": null, "confirmed": null, "groups": [entry]}).to_string();
        let status = json!({"state": if online { "online" } else { "offline" }}).to_string();
        let id: Arc<str> = "gw-1".into();
        let mut seen = Seen::default();
        seen.take(&Topic::Reported(Arc::clone(&id)), report.as_bytes(), &Folder::default());
        seen.take(&Topic::Status(Arc::clone(&id)), status.as_bytes(), &Folder::default());
        judge(&id, seen.gateway(&id), &wanted())
    }

    #[test]
    fn a_report_of_the_wanted_version_decides() {
        let old = Some((6, OTHER));
        for (entry, standing) in [
            (entry(7, WANTED, "confirmed", Some((7, WANTED))), Standing::AsWanted),
            (entry(6, OTHER, "confirmed", old), Standing::Waiting),
            (entry(7, WANTED, "pending", old), Standing::Waiting),
            (entry(7, WANTED, "applied", old), Standing::Waiting),
            (entry(7, WANTED, "rolled-back", old), Standing::RolledBack),
            (entry(7, WANTED, "refused", old), Standing::Refused),
            (entry(7, WANTED, "pending-restart", Some((7, WANTED))), Standing::PendingRestart),
            (entry(7, WANTED, "expired", old), Standing::Refused),
            // Another document under the wanted number is not the wanted one.
            (entry(7, OTHER, "confirmed", Some((7, OTHER))), Standing::Waiting),
            // What it refused besides does not change what runs.
            (entry(9, OTHER, "refused", Some((7, WANTED))), Standing::AsWanted),
        ] {
            let judged = judged(true, &entry);
            assert_eq!(judged.standing, standing, "{entry}");
            if matches!(standing, Standing::Refused | Standing::RolledBack | Standing::PendingRestart) {
                assert_eq!(judged.reason.as_deref(), Some("because"), "{entry}");
            }
        }
    }

    #[test]
    fn who_is_offline_gets_it_later_and_what_it_said_last_counts() {
        assert_eq!(judged(false, &entry(6, OTHER, "confirmed", Some((6, OTHER)))).standing, Standing::Offline);
        assert_eq!(judged(false, &entry(7, WANTED, "refused", None)).standing, Standing::Refused);
        assert_eq!(judged(false, &entry(7, WANTED, "confirmed", Some((7, WANTED)))).standing, Standing::AsWanted);
    }

    #[test]
    fn who_was_online_a_moment_ago_is_waited_for() {
        let id: Arc<str> = "gw-1".into();
        let report = json!({"state": "confirmed", "groups": [{"group": "plant", "state": "confirmed"}]}).to_string();
        let mut seen = Seen::default();
        let mut take = |topic, payload: &[u8]| {
            seen.take(&topic, payload, &Folder::default());
            judge(&id, seen.gateway(&id), &wanted())
        };
        take(Topic::Reported(Arc::clone(&id)), report.as_bytes());
        let away = take(Topic::Status(Arc::clone(&id)), br#"{"state":"offline"}"#);
        assert!(away.standing == Standing::Offline && away.is_settled());
        take(Topic::Status(Arc::clone(&id)), br#"{"state":"online"}"#);
        let gone = take(Topic::Status(Arc::clone(&id)), br#"{"state":"offline"}"#);
        assert!(gone.standing == Standing::Offline && !gone.is_settled());
    }

    #[test]
    fn what_is_withdrawn_must_be_gone() {
        let id: Arc<str> = "gw-1".into();
        let confirmed = json!({"version": 3, "digest": Digest::of(OTHER)});
        let report = json!({"state": "confirmed", "version": 3, "confirmed": confirmed}).to_string();
        let mut seen = Seen::default();
        seen.begin();
        seen.take(&Topic::Status(Arc::clone(&id)), br#"{"state":"online"}"#, &Folder::default());
        assert_eq!(judge(&id, seen.gateway(&id), &wanted()).standing, Standing::NoReport);
        seen.complete();
        seen.take(&Topic::Status(Arc::clone(&id)), br#"{"state":"online"}"#, &Folder::default());
        let just_connected = judge(&id, seen.gateway(&id), &wanted());
        assert_eq!(just_connected.standing, Standing::Waiting, "its report follows its birth");
        seen.take(&Topic::Reported(Arc::clone(&id)), report.as_bytes(), &Folder::default());
        assert_eq!(judge(&id, seen.gateway(&id), &wanted()).standing, Standing::Waiting);
        seen.take(&Topic::Reported(Arc::clone(&id)), br#"{"state":"confirmed","confirmed":null}"#, &Folder::default());
        assert_eq!(judge(&id, seen.gateway(&id), &wanted()).standing, Standing::AsWanted);
    }

    #[test]
    fn nobody_is_lost_between_the_folder_and_the_broker() {
        let mut wanted = wanted();
        wanted.given_up(&Target::Gateway("gw-9".into()));
        let mut seen = Seen::default();
        seen.take(&Topic::Status("gw-1".into()), b"{}", &Folder::default());
        assert_eq!(wanted.gateways(&seen), ["gw-1".into(), "gw-9".into()].into());
        let absent = judge(&"gw-9".into(), None, &wanted);
        assert!(absent.standing == Standing::Absent && absent.is_settled());
    }

    #[test]
    fn a_gateway_that_tries_again_by_itself_is_waited_for() {
        let mut entry = entry(7, WANTED, "rolled-back", None);
        assert!(judged(true, &entry).is_settled());
        entry["next_attempt_s"] = 30.into();
        assert!(!judged(true, &entry).is_settled());
    }

    #[test]
    fn the_counts_follow_the_order() {
        for (index, standing) in Standing::ALL.into_iter().enumerate() {
            assert_eq!(standing as usize, index);
        }
    }
}
