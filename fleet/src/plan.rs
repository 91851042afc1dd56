//! What has to be published for the broker to say what the folder says. Pure: folder and broker in, changes out.
//!
//! # Versions
//!
//! A gateway refuses a version below the highest that it has seen of a source, and a second document under a version
//! that it knows (docs/mqtt.md). Nothing is kept beside the folder, so the next number follows from what the broker
//! retains and from what gateways report:
//!
//! - a document whose settings are the folder's keeps its version;
//! - another one becomes `max(retained, reported) + 1`;
//! - one that the broker no longer holds begins at the seconds since 1970, or above what is reported: a withdrawal
//!   takes the number away with the document, while a gateway that is away remembers it;
//! - a document with the folder's settings is published again under a new number where gateways have seen a higher one,
//!   or another document under its own: a broker that was restored from a backup would be refused for ever.
//!
//! A report can come from a gateway that somebody broke into. So that none can use up the numbers of its groups,
//! reported versions count up to [`MAX_REPORTED`] only; from there on each change takes one more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tidegate::control::desired::MAX_VERSION;
use tidegate_values::Digest;

use crate::{
    document::{Content, KeyChange, differences, keys},
    folder::Folder,
    seen::{Retained, Seen},
    target::Target,
};

/// Highest reported version that counts: it leaves half of all numbers.
const MAX_REPORTED: u64 = MAX_VERSION / 2;

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There was no document.
    Create,
    /// There was one that says something else.
    Change,
    /// There was one that says the same, under a number that gateways would refuse.
    Renew,
    /// The folder has no document any more.
    Withdraw,
}

/// One document that is to be published or withdrawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Whose.
    pub target: Target,
    /// What is done.
    pub kind: Kind,
    /// Version that is published; none for a withdrawal.
    pub version: Option<u64>,
    /// Version that the broker retains; none where there is none, or where what it retains is no document.
    pub before: Option<u64>,
    /// Settings that change.
    pub keys: Vec<KeyChange>,
    /// Gateways that it concerns, as far as they have reported.
    pub members: Vec<Arc<str>>,
}

/// All that is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Groups first, by name.
    pub changes: Vec<Change>,
    /// Documents that stay, with version and digest of the payload.
    pub unchanged: BTreeMap<Target, (u64, Digest)>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// The folder has no document of a kind, and the broker has.
    #[error(
        "the folder has no file in {folder}/, and the broker has the documents of {count}: withdrawing all of them is \
         left to --withdraw-all"
    )]
    WithdrawsAll {
        /// `groups` or `gateways`.
        folder: &'static str,
        /// How many documents.
        count: usize,
    },
    /// Somebody published the highest version that there is.
    #[error("{target}: the broker has version {MAX_VERSION}, the highest there is; withdraw it and begin anew")]
    NoVersionLeft {
        /// Whose.
        target: Target,
    },
}

/// What a plan may take for granted.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seconds since 1970: where numbers begin.
    pub now_s: u64,
    /// All documents of groups, or of gateways, may be withdrawn at once.
    pub withdraw_all: bool,
}

/// Makes the plan.
///
/// # Errors
///
/// [`NoPlan`]; nothing is to be published then.
pub fn plan(folder: &Folder, seen: &Seen, options: Options) -> Result<Plan, NoPlan> {
    if !options.withdraw_all {
        refuse_to_withdraw_all(folder, seen)?;
    }
    let reported = Reports::gather(seen);
    let mut plan = Plan::default();
    // What an online gateway still runs though the broker has forgotten it is withdrawn, too.
    let held = reported.about.iter().filter(|(_, about)| about.in_force).map(|(target, _)| target);
    let retained = seen.all_desired().map(|(target, _)| target);
    let targets: BTreeSet<&Target> = folder.targets().chain(retained).chain(held).collect();
    for target in targets {
        let step = Step { target, retained: seen.desired(target), reported: reported.about.get(target) };
        match folder.get(target) {
            Some(content) => match step.kind() {
                Ok(unchanged) => {
                    plan.unchanged.insert(target.clone(), unchanged);
                }
                Err(kind) => plan.changes.push(step.publish(kind, content, options.now_s)?),
            },
            None => plan.changes.push(step.withdraw()),
        }
    }
    for change in &mut plan.changes {
        change.members = match &change.target {
            Target::Group(_) => {
                reported.about.get(&change.target).map(|about| about.members.clone()).unwrap_or_default()
            }
            Target::Gateway(id) => vec![Arc::clone(id)],
        };
    }
    Ok(plan)
}

/// A folder that was emptied or mistyped must not take away the configuration of a fleet.
fn refuse_to_withdraw_all(folder: &Folder, seen: &Seen) -> Result<(), NoPlan> {
    for (name, of_group) in [("groups", true), ("gateways", false)] {
        let count = seen.all_desired().filter(|(target, _)| target.is_group() == of_group).count();
        if count > 0 && !folder.targets().any(|target| target.is_group() == of_group) {
            return Err(NoPlan::WithdrawsAll { folder: name, count });
        }
    }
    Ok(())
}

/// What gateways say of the documents of all targets.
struct Reports {
    about: BTreeMap<Target, About>,
}

#[derive(Default)]
struct About {
    /// Highest version that a gateway has seen.
    highest: u64,
    /// Digests under that version.
    digests: BTreeSet<Digest>,
    /// Who reports about it.
    members: Vec<Arc<str>>,
    /// A gateway that is online runs it.
    in_force: bool,
}

impl Reports {
    fn gather(seen: &Seen) -> Self {
        let mut about: BTreeMap<Target, About> = BTreeMap::new();
        for (target, id, reported) in seen.reported() {
            let about = about.entry(target).or_default();
            about.members.push(Arc::clone(id));
            let online = seen.gateway(id).is_some_and(|gateway| gateway.online == Some(true));
            about.in_force |= online && reported.confirmed.is_some();
            let known = reported.version.zip(reported.digest).into_iter().chain(reported.confirmed);
            let bare = reported.version.map(|version| (version, None));
            for (version, digest) in known.map(|(version, digest)| (version, Some(digest))).chain(bare) {
                if version > MAX_REPORTED || version < about.highest {
                    continue;
                }
                if version > about.highest {
                    about.highest = version;
                    about.digests.clear();
                }
                about.digests.extend(digest);
            }
        }
        Self { about }
    }
}

/// One target on its way into the plan.
struct Step<'a> {
    target: &'a Target,
    retained: Option<&'a Retained>,
    reported: Option<&'a About>,
}

impl Step<'_> {
    /// What is to be done for the broker to say what the folder says; `Ok` with version and digest where it says so already.
    fn kind(&self) -> Result<(u64, Digest), Kind> {
        let Some(retained) = self.retained else { return Err(Kind::Create) };
        let Some(version) = retained.version.filter(|_| retained.as_in_folder) else { return Err(Kind::Change) };
        let refused = self.reported.is_some_and(|reported| {
            reported.highest > version
                || reported.highest == version && reported.digests.iter().any(|digest| *digest != retained.digest)
        });
        if refused { Err(Kind::Renew) } else { Ok((version, retained.digest)) }
    }

    fn publish(&self, kind: Kind, content: &Content, now_s: u64) -> Result<Change, NoPlan> {
        let before = self.retained.and_then(|retained| retained.version);
        let reported = self.reported.map_or(0, |reported| reported.highest);
        let above = match before {
            Some(version) => version.max(reported),
            None => reported.max(now_s.min(MAX_REPORTED).saturating_sub(1)),
        };
        if above >= MAX_VERSION {
            return Err(NoPlan::NoVersionLeft { target: self.target.clone() });
        }
        let keys = if kind == Kind::Renew { Vec::new() } else { differences(&self.keys_before(), &content.keys()) };
        Ok(self.change(kind, Some(above + 1), keys))
    }

    fn withdraw(&self) -> Change {
        self.change(Kind::Withdraw, None, differences(&self.keys_before(), &BTreeMap::new()))
    }

    fn keys_before(&self) -> BTreeMap<String, serde_json::Value> {
        self.retained.and_then(|retained| retained.config.as_ref()).map(keys).unwrap_or_default()
    }

    fn change(&self, kind: Kind, version: Option<u64>, keys: Vec<KeyChange>) -> Change {
        let before = self.retained.and_then(|retained| retained.version);
        Change { target: self.target.clone(), kind, version, before, keys, members: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{document::Published, report::MAX_REPORT_BYTES, target::Topic};

    const NOW_S: u64 = 1_800_000_000;
    const OPTIONS: Options = Options { now_s: NOW_S, withdraw_all: false };

    fn plant() -> Target {
        Target::Group("plant".into())
    }

    fn interval(text: &str) -> Content {
        Content::new(&json!({"host": {"interval": text}}))
    }

    fn folder(content: &Content) -> Folder {
        [(plant(), content.clone())].into_iter().collect()
    }

    /// What the broker has after these messages.
    fn seen(folder: &Folder, messages: &[(Topic, Vec<u8>)]) -> Seen {
        let mut seen = Seen::default();
        for (topic, payload) in messages {
            seen.take(topic, payload, folder);
        }
        seen
    }

    fn desired(content: &Content, version: u64) -> (Topic, Vec<u8>) {
        (Topic::Desired(plant()), content.payload(version).to_vec())
    }

    fn report(id: &str, entry: &Value) -> (Topic, Vec<u8>) {
        let mut group = json!({"group": "plant", "state": "confirmed"});
        group.as_object_mut().unwrap().extend(entry.as_object().unwrap().clone());
        let report = json!({"state": "confirmed", "version": null, "groups": [group]}).to_string();
        assert!(report.len() < MAX_REPORT_BYTES);
        (Topic::Reported(id.into()), report.into_bytes())
    }

    fn only_change(plan: &Plan) -> &Change {
        let [change] = &plan.changes[..] else { panic!("{plan:#?}") };
        change
    }

    #[test]
    fn a_new_document_begins_at_the_time_and_above_what_gateways_remember() {
        let folder = folder(&interval("10s"));
        let made = plan(&folder, &seen(&folder, &[]), OPTIONS).unwrap();
        assert_eq!((only_change(&made).kind, only_change(&made).version), (Kind::Create, Some(NOW_S)));
        let remembered = seen(&folder, &[report("gw-1", &json!({"version": NOW_S + 5}))]);
        let made = plan(&folder, &remembered, OPTIONS).unwrap();
        assert_eq!(only_change(&made).version, Some(NOW_S + 6));
        assert_eq!(only_change(&made).members, ["gw-1".into()]);
    }

    #[test]
    fn what_is_as_the_folder_says_keeps_its_version_however_it_was_written() {
        let content = interval("10s");
        let folder = folder(&content);
        let by_hand = br#"{ "version": 3, "config": { "host": { "interval": "10s" } } }"#;
        for payload in [content.payload(3).to_vec(), by_hand.to_vec()] {
            let digest = Digest::of(&payload);
            let made = plan(&folder, &seen(&folder, &[(Topic::Desired(plant()), payload)]), OPTIONS).unwrap();
            assert_eq!(made, Plan { changes: vec![], unchanged: [(plant(), (3, digest))].into() });
        }
    }

    #[test]
    fn a_changed_document_goes_above_what_is_retained_and_reported_and_names_its_keys() {
        let folder = folder(&interval("10s"));
        let reported = [report("gw-1", &json!({"version": 9})), report("gw-2", &json!({"version": 4}))];
        let messages = [vec![desired(&interval("1m"), 7)], reported.to_vec()].concat();
        let made = plan(&folder, &seen(&folder, &messages), OPTIONS).unwrap();
        let change = only_change(&made);
        assert_eq!((change.kind, change.before, change.version), (Kind::Change, Some(7), Some(10)));
        let keys = [KeyChange { key: "host.interval".to_owned(), from: Some(json!("1m")), to: Some(json!("10s")) }];
        assert_eq!(change.keys, keys);
        assert_eq!(change.members, ["gw-1".into(), "gw-2".into()]);
    }

    #[test]
    fn garbage_is_replaced() {
        let folder = folder(&interval("10s"));
        let made = plan(&folder, &seen(&folder, &[(Topic::Desired(plant()), b"garbage".to_vec())]), OPTIONS).unwrap();
        assert_eq!((only_change(&made).kind, only_change(&made).version), (Kind::Change, Some(NOW_S)));
    }

    #[test]
    fn a_broker_from_a_backup_gets_a_number_that_gateways_take() {
        let content = interval("10s");
        let folder = folder(&content);
        let other = json!({"version": 7, "digest": Digest::of(b"another document").to_string()});
        for entry in [json!({"version": 9}), other] {
            let made = plan(&folder, &seen(&folder, &[desired(&content, 7), report("gw-1", &entry)]), OPTIONS).unwrap();
            let above = entry["version"].as_u64().unwrap() + 1;
            assert_eq!((only_change(&made).kind, only_change(&made).version), (Kind::Renew, Some(above)));
        }
        let same = json!({"version": 7, "digest": Digest::of(&content.payload(7)).to_string()});
        let made = plan(&folder, &seen(&folder, &[desired(&content, 7), report("gw-1", &same)]), OPTIONS).unwrap();
        assert!(made.changes.is_empty(), "{made:#?}");
    }

    #[test]
    fn no_gateway_can_use_up_the_numbers_of_its_group() {
        let folder = folder(&interval("10s"));
        let seen = seen(&folder, &[desired(&interval("1m"), 7), report("gw-1", &json!({"version": MAX_VERSION}))]);
        assert_eq!(only_change(&plan(&folder, &seen, OPTIONS).unwrap()).version, Some(8));
    }

    #[test]
    fn the_last_number_is_told() {
        let folder = folder(&interval("10s"));
        let seen = seen(&folder, &[desired(&interval("1m"), MAX_VERSION)]);
        assert_eq!(plan(&folder, &seen, OPTIONS), Err(NoPlan::NoVersionLeft { target: plant() }));
    }

    #[test]
    fn what_the_folder_no_longer_names_is_withdrawn() {
        let folder: Folder = [(Target::Group("other".into()), interval("10s"))].into_iter().collect();
        let seen = seen(&folder, &[desired(&interval("1m"), 7)]);
        let made = plan(&folder, &seen, OPTIONS).unwrap();
        let [create, withdraw] = &made.changes[..] else { panic!("{made:#?}") };
        assert_eq!(create.kind, Kind::Create);
        assert_eq!((withdraw.kind, withdraw.before, withdraw.version), (Kind::Withdraw, Some(7), None));
        assert_eq!(withdraw.keys[0].to, None);
    }

    #[test]
    fn a_folder_without_groups_does_not_withdraw_all_of_them_unless_that_is_meant() {
        let folder: Folder = [(Target::Gateway("gw-1".into()), interval("10s"))].into_iter().collect();
        let seen = seen(&folder, &[desired(&interval("1m"), 7)]);
        assert_eq!(plan(&folder, &seen, OPTIONS), Err(NoPlan::WithdrawsAll { folder: "groups", count: 1 }));
        let meant = plan(&folder, &seen, Options { withdraw_all: true, ..OPTIONS }).unwrap();
        assert_eq!(meant.changes.len(), 2);
    }

    #[test]
    fn what_an_online_gateway_runs_and_the_broker_forgot_is_withdrawn() {
        let folder: Folder = [(Target::Group("other".into()), interval("10s"))].into_iter().collect();
        let confirmed = json!({"version": 7, "confirmed": {"version": 7, "digest": Digest::of(b"x").to_string()}});
        let report = report("gw-1", &confirmed);
        let offline = seen(&folder, std::slice::from_ref(&report));
        assert_eq!(plan(&folder, &offline, OPTIONS).unwrap().changes.len(), 1, "it is told when it is back");
        let status = (Topic::Status("gw-1".into()), br#"{"state":"online"}"#.to_vec());
        let made = plan(&folder, &seen(&folder, &[report, status]), OPTIONS).unwrap();
        assert_eq!(made.changes[1].kind, Kind::Withdraw);
    }

    mod carried_out {
        use proptest::prelude::*;

        use super::*;

        fn name() -> impl Strategy<Value = Target> {
            prop_oneof![
                "[ab]".prop_map(|name| Target::Group(name.into())),
                "[ab]".prop_map(|id| Target::Gateway(id.into()))
            ]
        }

        fn documents() -> impl Strategy<Value = BTreeMap<Target, (u64, u8)>> {
            proptest::collection::btree_map(name(), (1..5_u64, 0..3_u8), 0..4)
        }

        proptest! {
            /// Whatever the broker has and gateways say: after the plan is carried out nothing is left to do, and no
            /// published version is one that a gateway would refuse.
            #[test]
            fn nothing_is_left_to_do(
                wanted in documents(),
                retained in documents(),
                reported in proptest::collection::vec((0..6_u64, 0..3_u8), 0..3),
            ) {
                let content = |value: u8| interval(&format!("{value}s"));
                let folder: Folder = wanted.iter().map(|(target, (_, value))| (target.clone(), content(*value))).collect();
                let mut messages: Vec<_> = retained
                    .iter()
                    .map(|(target, (version, value))| {
                        (Topic::Desired(target.clone()), content(*value).payload(*version).to_vec())
                    })
                    .collect();
                for (index, (version, value)) in reported.iter().enumerate() {
                    let digest = Digest::of(&content(*value).payload(*version)).to_string();
                    let group = json!({"group": "a", "state": "refused", "version": version, "digest": digest});
                    let report = json!({"state": "confirmed", "groups": [group]}).to_string();
                    messages.push((Topic::Reported(format!("gw-{index}").into()), report.into_bytes()));
                }
                let mut seen = seen(&folder, &messages);
                let options = Options { withdraw_all: true, ..OPTIONS };
                let made = plan(&folder, &seen, options).unwrap();
                for change in &made.changes {
                    let payload = change.version.map(|version| folder.get(&change.target).unwrap().payload(version));
                    let payload = payload.unwrap_or_default();
                    if change.target == Target::Group("a".into()) && !payload.is_empty() {
                        let version = Published::read(&payload).unwrap().version;
                        prop_assert!(reported.iter().all(|(seen, _)| *seen < version), "{change:?}");
                    }
                    seen.take(&Topic::Desired(change.target.clone()), &payload, &folder);
                }
                let left = plan(&folder, &seen, options).unwrap();
                prop_assert!(left.changes.is_empty(), "{:#?}", left);
                prop_assert_eq!(left.unchanged.len(), wanted.len());
            }
        }
    }
}
