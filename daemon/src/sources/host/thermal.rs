//! Temperatures: thermal zones, and the sensors of hwmon that no zone stands for (Documentation/ABI/testing/sysfs-class-thermal,
//! Documentation/hwmon/sysfs-interface.rst).

use serde::Serialize;

use super::files::Files;

/// Sensors at most; a gateway has a handful.
const MAX_SENSORS: usize = 32;

/// What a sensor says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Temperature {
    /// The zone's type, or the chip and the input's label: `cpu-thermal`, `nvme/Composite`.
    pub name: String,
    /// Degrees Celsius.
    pub celsius: f64,
}

/// All sensors that can be read; empty where there are none.
pub(super) fn temperatures(files: &mut Files) -> Vec<Temperature> {
    let mut found = Vec::new();
    for zone in files.names("sys/class/thermal", 256).unwrap_or_default() {
        if !zone.starts_with("thermal_zone") || found.len() >= MAX_SENSORS {
            continue;
        }
        let Some(name) = files.line(format!("sys/class/thermal/{zone}/type")) else { continue };
        found.extend(
            celsius(files, &format!("sys/class/thermal/{zone}/temp")).map(|celsius| Temperature { name, celsius }),
        );
    }
    let zones = found.len();
    for chip in files.names("sys/class/hwmon", 64).unwrap_or_default() {
        let folder = format!("sys/class/hwmon/{chip}");
        let Some(name) = files.line(format!("{folder}/name")) else { continue };
        // The kernel shows most zones here a second time, with another spelling.
        if found[..zones].iter().any(|zone| zone.name.replace('-', "_") == name) {
            continue;
        }
        for input in files.names(&folder, 256).unwrap_or_default() {
            let Some(sensor) = input.strip_suffix("_input").filter(|sensor| sensor.starts_with("temp")) else {
                continue;
            };
            if found.len() >= MAX_SENSORS {
                return found;
            }
            let label = files.line(format!("{folder}/{sensor}_label")).unwrap_or_else(|| sensor.to_owned());
            let name = format!("{name}/{label}");
            found.extend(celsius(files, &format!("{folder}/{input}")).map(|celsius| Temperature { name, celsius }));
        }
    }
    found
}

/// A file with thousandths of a degree. Sensors that are switched off or broken answer with errors or absurdities.
fn celsius(files: &mut Files, path: &str) -> Option<f64> {
    let thousandths: i32 = files.number(path)?;
    (-100_000..=300_000).contains(&thousandths).then(|| f64::from(thousandths) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn zones_and_the_sensors_beside_them_are_read_once_each() {
        let (_folder, mut files) = tree(&[
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/class/thermal/thermal_zone1/type", "modem\n"),
            ("sys/class/thermal/thermal_zone1/temp", "-274000\n"),
            ("sys/class/thermal/cooling_device0/type", "fan\n"),
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "48312\n"),
            ("sys/class/hwmon/hwmon1/name", "nvme\n"),
            ("sys/class/hwmon/hwmon1/temp1_input", "31850\n"),
            ("sys/class/hwmon/hwmon1/temp1_label", "Composite\n"),
            ("sys/class/hwmon/hwmon1/temp2_input", "garbage\n"),
            ("sys/class/hwmon/hwmon1/in1_input", "5000\n"),
        ]);
        let expected = [("cpu-thermal", 48.312), ("nvme/Composite", 31.85)];
        let found = temperatures(&mut files);
        assert_eq!(found.iter().map(|sensor| (sensor.name.as_str(), sensor.celsius)).collect::<Vec<_>>(), expected);
    }
}
