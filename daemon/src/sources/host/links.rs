//! Network links: /proc/net/dev for what they carried (`proc_pid_net(5)`), /sys/class/net for their state
//! (Documentation/ABI/testing/sysfs-class-net).

use serde::Serialize;

use super::files::Files;

/// Links at most. Containers can make hundreds; the first in the kernel's order are those of the hardware.
const MAX_LINKS: usize = 64;

/// A network interface; counts are since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// `eth0`
    pub name: String,
    /// The kernel's operational state (RFC 2863): `up`, `down`, `dormant`, `unknown` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether the other end is there; absent while the interface is switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<bool>,
    /// How often that changed: a bad cable or a modem that comes and goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier_changes: Option<u64>,
    /// Megabits a second, where the driver knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbit: Option<u32>,
    /// Received.
    pub rx_bytes: u64,
    /// Frames received.
    pub rx_packets: u64,
    /// Frames received damaged.
    pub rx_errors: u64,
    /// Frames received and thrown away for want of room.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames thrown away before they were sent.
    pub tx_dropped: u64,
}

/// All links but `lo`.
pub(super) fn links(files: &mut Files) -> std::io::Result<Vec<Link>> {
    let mut links: Vec<Link> =
        files.read("proc/net/dev")?.lines().filter_map(link).filter(|link| link.name != "lo").take(MAX_LINKS).collect();
    for link in &mut links {
        let folder = format!("sys/class/net/{}", link.name);
        link.state = files.line(format!("{folder}/operstate"));
        link.carrier = files.number::<u8>(format!("{folder}/carrier")).map(|carrier| carrier == 1);
        link.carrier_changes = files.number(format!("{folder}/carrier_changes"));
        // Drivers that do not know say -1 or, without a carrier, that the argument is invalid.
        link.speed_mbit = files.number(format!("{folder}/speed")).filter(|speed| *speed != 0 && *speed != u32::MAX);
    }
    Ok(links)
}

/// `  eth0: 834960 6812 0 0 0 0 0 0 834960 6812 0 0 0 0 0 0`
fn link(line: &str) -> Option<Link> {
    let (name, counts) = line.rsplit_once(':')?;
    let mut fields = counts.split_ascii_whitespace();
    let mut values = [0_u64; 12];
    for value in &mut values {
        *value = fields.next()?.parse().ok()?;
    }
    let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped] = values;
    let name = name.trim_start().to_owned();
    let unsafe_name = name.is_empty() || name.contains('/') || name == "." || name == "..";
    (!unsafe_name).then_some(Link {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..Link::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::tree;
    use super::*;

    #[test]
    fn counts_and_states_of_a_link_come_together() {
        let (_folder, mut files) = tree(&[
            (
                "proc/net/dev",
                "Inter-|   Receive                                                |  Transmit\n \
                 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                 lo:  834960    6812    0    0    0     0          0         0   834960    6812    0    0    0     0       0          0\n  \
                 eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n wwan0:1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
            ),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth0/carrier", "1\n"),
            ("sys/class/net/eth0/carrier_changes", "9\n"),
            ("sys/class/net/eth0/speed", "1000\n"),
            ("sys/class/net/wwan0/speed", "-1\n"),
        ]);
        let links = links(&mut files).unwrap();
        assert_eq!(
            links[0],
            Link {
                name: "eth0".into(),
                state: Some("up".into()),
                carrier: Some(true),
                carrier_changes: Some(9),
                speed_mbit: Some(1000),
                rx_bytes: 100,
                rx_packets: 2,
                rx_errors: 3,
                rx_dropped: 4,
                tx_bytes: 500,
                tx_packets: 6,
                tx_errors: 7,
                tx_dropped: 8,
            }
        );
        assert_eq!(links[1], Link { name: "wwan0".into(), rx_bytes: 1, ..Link::default() });
        assert_eq!(links.len(), 2);
    }

    proptest! {
        #[test]
        fn hostile_text_is_not_read(line in "[a-z./]{0,8}:?( ?[0-9]{0,22}){0,17}|.{0,80}") {
            if let Some(link) = link(&line) {
                prop_assert!(!link.name.contains('/'));
            }
        }
    }
}
