//! One look at the machine: the payload of `telemetry/host`. Its schema is `docs/schema/telemetry-host.json`.

use std::{collections::BTreeMap, io, path::Path};

use serde::Serialize;

use super::{
    certificates::{self, Certificate},
    disk::{self, Disk, FileSystem},
    files::Files,
    links::{self, Link},
    load::{self, Cpu, Load},
    memory::{self, Memory},
    own::{self, Own},
    pressure::{self, Pressure},
    thermal::{self, Temperature},
};
use crate::{config::Config, record::Stamp};

/// The data of a `telemetry/host` record. What this machine cannot tell is absent, and named in `unavailable`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since boot.
    pub up_seconds: f64,
    /// Load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// By resource: `cpu`, `memory`, `io`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pressure: BTreeMap<&'static str, Pressure>,
    /// By sensor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub temperatures: Vec<Temperature>,
    /// `/` and the spool's.
    pub file_systems: Vec<FileSystem>,
    /// By block device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// By interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Those of the connection to the broker, where it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// The daemon's own cost.
    #[serde(rename = "self")]
    pub own: Own,
    /// Samples that could not be stored since the daemon started, this one's predecessors.
    #[serde(skip_serializing_if = "is_zero")]
    pub samples_dropped: u64,
    /// What is not there, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unavailable: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Sample {
    /// Looks at everything once. Blocks for as long as the kernel needs, which for a sensor on a slow bus is
    /// some ten milliseconds.
    pub(super) fn take(files: &mut Files, spool_dir: &Path) -> Self {
        let mut sample = Self { own: own::own(files), ..Self::default() };
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        sample.up_seconds = up.tv_sec as f64 + (up.tv_nsec / 1_000_000) as f64 / 1e3;

        sample.load = sample.parsed("load", files.read("proc/loadavg"), load::load);
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        sample.cpu = sample.parsed("cpu", files.read("proc/stat"), |text| load::cpu(text, ticks));
        sample.memory = sample.parsed("memory", files.read("proc/meminfo"), memory::memory);
        for resource in ["cpu", "memory", "io"] {
            let text = files.read(format!("proc/pressure/{resource}"));
            if let Some(pressure) = sample.parsed(&format!("pressure/{resource}"), text, pressure::pressure) {
                sample.pressure.insert(resource, pressure);
            }
        }
        sample.temperatures = thermal::temperatures(files);
        if sample.temperatures.is_empty() {
            sample.unavailable.insert("temperatures".to_owned(), "no sensor that can be read".to_owned());
        }
        let root = Path::new("/");
        for path in if spool_dir == root { vec![root] } else { vec![root, spool_dir] } {
            let found = sample.available(&format!("file_systems{}", path.display()), disk::file_system(path));
            sample.file_systems.extend(found);
        }
        let disks = disk::disks(files);
        sample.disks = sample.available("disks", disks).unwrap_or_default();
        let links = links::links(files);
        sample.links = sample.available("links", links).unwrap_or_default();
        sample
    }

    /// Adds when the certificates expire.
    pub(super) fn look_at_certificates(&mut self, config: &Config, now: &Stamp) {
        self.certificates = certificates::certificates(config, now, &mut self.unavailable);
    }

    /// Remembers why something is not there.
    fn available<T>(&mut self, what: &str, found: io::Result<T>) -> Option<T> {
        found.map_err(|error| self.unavailable.insert(what.to_owned(), error.to_string())).ok()
    }

    fn parsed<T>(&mut self, what: &str, text: io::Result<&str>, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.available(what, text)?;
        let parsed = parse(text);
        if parsed.is_none() {
            self.unavailable.insert(what.to_owned(), "the kernel's text has another form than expected".to_owned());
        }
        parsed
    }
}
