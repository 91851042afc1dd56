//! What the broker has told: the documents that it retains, what gateways report, who is online.
//!
//! Ten thousand gateways are held in a few megabytes: of a document the version and two digests, and its settings only
//! where they are not what the folder says; of a report what [`Report`] keeps.
//!
//! A connection that was lost brings everything anew. What it does not bring again is gone from the broker: between
//! [`Seen::begin`] and [`Seen::complete`] that is found out by the number of the reading in which each entry came.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;
use tidegate_values::Digest;

use crate::{
    document::{Content, Published},
    folder::Folder,
    report::{Report, Reported},
    target::{Target, Topic},
};

/// A retained document.
#[derive(Clone, Debug, PartialEq)]
pub struct Retained {
    /// Its version; none where the payload is no document.
    pub version: Option<u64>,
    /// Of the payload.
    pub digest: Digest,
    /// Whether it says what the folder says.
    pub as_in_folder: bool,
    /// What it says, where that is something else.
    pub config: Option<Value>,
    reading: u32,
}

/// A gateway, as far as the broker knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// Whether it is connected; none where the broker retains no status of it.
    pub online: Option<bool>,
    /// It was connected at some time while this program looked: it may be back in a moment.
    pub was_online: bool,
    /// Version of its daemon.
    pub daemon: Option<Box<str>>,
    /// What it reports, or why that cannot be read; none where the broker retains no report.
    pub report: Option<Result<Report, Box<str>>>,
    /// It has just come online, or the broker has just forgotten it: its report is on the way.
    pub report_due: bool,
    reading: u32,
}

impl Gateway {
    /// Its report, where it is one.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()?.as_ref().ok()
    }
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    desired: BTreeMap<Target, Retained>,
    gateways: BTreeMap<Arc<str>, Gateway>,
    reading: u32,
    /// What comes is what was retained, not what happens now.
    is_reading: bool,
}

impl Seen {
    /// Everything will come again.
    pub fn begin(&mut self) {
        self.reading += 1;
        self.is_reading = true;
    }

    /// Everything has come: what did not is gone from the broker.
    pub fn complete(&mut self) {
        self.is_reading = false;
        let reading = self.reading;
        self.desired.retain(|_, retained| retained.reading == reading);
        for gateway in self.gateways.values_mut().filter(|gateway| gateway.reading != reading) {
            let Gateway { was_online, reading, .. } = *gateway;
            *gateway = Gateway { was_online, report_due: true, reading, ..Gateway::default() };
        }
    }

    /// Takes in one message.
    pub fn take(&mut self, topic: &Topic, payload: &[u8], folder: &Folder) {
        match topic {
            Topic::Desired(target) if payload.is_empty() => {
                self.desired.remove(target);
            }
            Topic::Desired(target) => {
                let retained = retained(payload, folder.get(target), self.reading);
                self.desired.insert(target.clone(), retained);
            }
            Topic::Reported(id) => {
                let report = (!payload.is_empty()).then(|| Report::read(payload).map_err(String::into_boxed_str));
                let gateway = self.gateway_mut(id);
                gateway.report = report;
                gateway.report_due = false;
            }
            Topic::Status(id) => {
                let status: Status = serde_json::from_slice(payload).unwrap_or_default();
                let happens_now = !self.is_reading;
                let gateway = self.gateway_mut(id);
                gateway.report_due |= happens_now && gateway.report.is_none();
                gateway.online = status.state.map(|state| state == "online");
                gateway.was_online |= gateway.online == Some(true);
                // The farewell does not repeat the version.
                gateway.daemon = status.version.or_else(|| gateway.daemon.take());
            }
        }
    }

    fn gateway_mut(&mut self, id: &Arc<str>) -> &mut Gateway {
        let gateway = self.gateways.entry(Arc::clone(id)).or_default();
        gateway.reading = self.reading;
        gateway
    }

    /// The document that the broker retains for a target.
    #[must_use]
    pub fn desired(&self, target: &Target) -> Option<&Retained> {
        self.desired.get(target)
    }

    /// All documents that the broker retains.
    pub fn all_desired(&self) -> impl Iterator<Item = (&Target, &Retained)> {
        self.desired.iter()
    }

    /// A gateway.
    #[must_use]
    pub fn gateway(&self, id: &str) -> Option<&Gateway> {
        self.gateways.get(id)
    }

    /// All gateways that have a status or a report at the broker.
    pub fn gateways(&self) -> impl Iterator<Item = (&Arc<str>, &Gateway)> {
        self.gateways.iter()
    }

    /// What gateways report about each document, by target.
    pub fn reported(&self) -> impl Iterator<Item = (Target, &Arc<str>, &Reported)> {
        self.gateways.iter().filter_map(|(id, gateway)| Some((id, gateway.report()?))).flat_map(|(id, report)| {
            let groups = report.groups.iter().map(|(group, about)| (Target::Group(Arc::clone(group)), about));
            let device = std::iter::once((Target::Gateway(Arc::clone(id)), &report.device));
            groups.chain(device).map(move |(target, about)| (target, id, about))
        })
    }
}

fn retained(payload: &[u8], wanted: Option<&Content>, reading: u32) -> Retained {
    let digest = Digest::of(payload);
    let Some(Published { version, config }) = Published::read(payload) else {
        return Retained { version: None, digest, as_in_folder: false, config: None, reading };
    };
    let content = config.as_ref().map(|config| Content::new(config).digest());
    let as_in_folder = content.is_some() && content == wanted.map(Content::digest);
    Retained { version: Some(version), digest, as_in_folder, config: config.filter(|_| !as_in_folder), reading }
}

/// As much of `ROOT/ID/status` as is needed.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    state: Option<String>,
    version: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gateway(id: &str) -> Topic {
        Topic::Status(id.into())
    }

    #[test]
    fn what_does_not_come_again_is_gone_and_a_gateway_is_remembered() {
        let folder = Folder::default();
        let plant = Target::Group("plant".into());
        let desired = Topic::Desired(plant.clone());
        let payload = Content::new(&json!({})).payload(3);
        let mut seen = Seen::default();
        seen.begin();
        seen.take(&desired, &payload, &folder);
        seen.take(&gateway("gw-1"), br#"{"state":"online","version":"0.1.0"}"#, &folder);
        seen.take(&gateway("gw-2"), br#"{"state":"offline"}"#, &folder);
        seen.complete();
        assert_eq!(seen.desired(&plant).unwrap().version, Some(3));

        seen.begin();
        seen.take(&gateway("gw-1"), br#"{"state":"online"}"#, &folder);
        seen.complete();
        assert_eq!(seen.desired(&plant), None);
        let [one, two] = ["gw-1", "gw-2"].map(|id| seen.gateway(id).unwrap());
        assert_eq!((one.online, one.report_due, one.daemon.as_deref()), (Some(true), false, Some("0.1.0")));
        assert_eq!((two.online, two.report_due), (None, true));
    }

    #[test]
    fn settings_are_kept_only_where_they_are_not_the_folders() {
        let plant = Target::Group("plant".into());
        let topic = Topic::Desired(plant.clone());
        let content = Content::new(&json!({"host": {"interval": "10s"}}));
        let folder = Folder::from_iter([(plant.clone(), content.clone())]);
        let mut seen = Seen::default();
        seen.take(&topic, &content.payload(3), &folder);
        let same = seen.desired(&plant).unwrap();
        assert!(same.as_in_folder && same.config.is_none());
        seen.take(&topic, br#"{"version":4,"config":{"host":{"interval":"1m"}}}"#, &folder);
        let other = seen.desired(&plant).unwrap();
        assert_eq!((other.as_in_folder, &other.config), (false, &Some(json!({"host": {"interval": "1m"}}))));
        seen.take(&topic, b"garbage", &folder);
        assert_eq!(seen.desired(&plant).unwrap().version, None);
        seen.take(&topic, b"", &folder);
        assert_eq!(seen.desired(&plant), None);
    }
}
