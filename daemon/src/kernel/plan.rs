//! What to do when interfaces or patterns change: a pure comparison of what is watched with what there is.

use std::collections::BTreeMap;

use tidegate_values::Patterns;

use super::interfaces::Link;

/// What a packet starts with on a link: decides which pair of programs is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header itself: ppp, tun, wg, wwan in raw IP mode.
    Network,
}

impl Framing {
    /// Framing of a link type (`ARPHRD_*` of `linux/if_arp.h`); `None` for types whose packets nobody here parses.
    #[must_use]
    pub const fn of_link_type(link_type: u16) -> Option<Self> {
        match link_type {
            // Loopback frames carry an Ethernet header of zeros.
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Self::Ethernet),
            // tun and wg are `NONE`, wwan modems `RAWIP`; the tunnels add their outer header behind our hook.
            libc::ARPHRD_PPP
            | ARPHRD_RAWIP
            | libc::ARPHRD_NONE
            | libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT => Some(Self::Network),
            _ => None,
        }
    }
}

/// `linux/if_arp.h`: raw IP, as modems in that mode speak.
const ARPHRD_RAWIP: u16 = 519;

/// An interface as it is watched now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Current {
    /// Name that telemetry uses.
    pub name: String,
    /// Which programs are attached.
    pub framing: Framing,
}

/// One thing to do. Steps are carried out in order: slots are given back before new ones are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Stop watching: the interface is gone, no longer matches, or changed its framing.
    Detach {
        /// Which.
        ifindex: u32,
    },
    /// Go on watching under another name.
    Rename {
        /// Which.
        ifindex: u32,
        /// Its name now.
        name: String,
    },
    /// Start watching.
    Attach {
        /// Which.
        ifindex: u32,
        /// Its name.
        name: String,
        /// Which programs.
        framing: Framing,
    },
}

/// Steps from what is watched to what the patterns want of the interfaces there are.
#[must_use]
pub(super) fn plan(current: &BTreeMap<u32, Current>, links: &BTreeMap<u32, Link>, patterns: &Patterns) -> Vec<Step> {
    let wanted = |ifindex: &u32| {
        let link = links.get(ifindex).filter(|link| patterns.matches(&link.name))?;
        Some((link, Framing::of_link_type(link.link_type)?))
    };
    let mut steps = Vec::new();
    let mut attach = Vec::new();
    for (&ifindex, now) in current {
        match wanted(&ifindex) {
            Some((link, framing)) if framing == now.framing => {
                if link.name != now.name {
                    steps.push(Step::Rename { ifindex, name: link.name.clone() });
                }
            }
            _ => steps.push(Step::Detach { ifindex }),
        }
    }
    for &ifindex in links.keys() {
        if let Some((link, framing)) = wanted(&ifindex)
            && current.get(&ifindex).is_none_or(|now| now.framing != framing)
        {
            attach.push(Step::Attach { ifindex, name: link.name.clone(), framing });
        }
    }
    steps.extend(attach);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHER: u16 = libc::ARPHRD_ETHER;

    fn links(list: &[(u32, &str, u16)]) -> BTreeMap<u32, Link> {
        list.iter().map(|&(ifindex, name, link_type)| (ifindex, Link { name: name.into(), link_type })).collect()
    }

    fn current(list: &[(u32, &str)]) -> BTreeMap<u32, Current> {
        list.iter()
            .map(|&(ifindex, name)| (ifindex, Current { name: name.into(), framing: Framing::Ethernet }))
            .collect()
    }

    fn eth() -> Patterns {
        Patterns::parse(&["eth*", "tun*", "can*"]).unwrap()
    }

    #[test]
    fn nothing_changes_when_nothing_changed() {
        assert_eq!(plan(&current(&[(2, "eth0")]), &links(&[(1, "lo", 772), (2, "eth0", ETHER)]), &eth()), []);
    }

    #[test]
    fn interfaces_that_appear_are_attached_by_their_framing() {
        let there = links(&[(2, "eth0", ETHER), (3, "tun0", libc::ARPHRD_NONE)]);
        let attach = |ifindex, name: &str, framing| Step::Attach { ifindex, name: name.into(), framing };
        assert_eq!(
            plan(&current(&[]), &there, &eth()),
            [attach(2, "eth0", Framing::Ethernet), attach(3, "tun0", Framing::Network)]
        );
    }

    #[test]
    fn an_unknown_link_type_is_left_alone() {
        assert_eq!(plan(&current(&[]), &links(&[(4, "can0", libc::ARPHRD_CAN)]), &eth()), []);
    }

    #[test]
    fn a_rename_keeps_the_programs_where_the_new_name_matches() {
        let steps = plan(&current(&[(2, "eth0")]), &links(&[(2, "eth9", ETHER)]), &eth());
        assert_eq!(steps, [Step::Rename { ifindex: 2, name: "eth9".into() }]);
    }

    #[test]
    fn a_rename_out_of_the_patterns_detaches_and_one_into_them_attaches() {
        let steps = plan(&current(&[(2, "eth0")]), &links(&[(2, "lan0", ETHER), (3, "eth0", ETHER)]), &eth());
        let attach = Step::Attach { ifindex: 3, name: "eth0".into(), framing: Framing::Ethernet };
        assert_eq!(steps, [Step::Detach { ifindex: 2 }, attach]);
    }

    #[test]
    fn a_name_that_comes_back_with_another_index_is_another_interface() {
        let steps = plan(&current(&[(2, "eth0")]), &links(&[(9, "eth0", ETHER)]), &eth());
        let attach = Step::Attach { ifindex: 9, name: "eth0".into(), framing: Framing::Ethernet };
        assert_eq!(steps, [Step::Detach { ifindex: 2 }, attach]);
    }

    #[test]
    fn a_change_of_framing_attaches_the_other_programs() {
        let steps = plan(&current(&[(2, "eth0")]), &links(&[(2, "eth0", libc::ARPHRD_NONE)]), &eth());
        let attach = Step::Attach { ifindex: 2, name: "eth0".into(), framing: Framing::Network };
        assert_eq!(steps, [Step::Detach { ifindex: 2 }, attach]);
    }

    #[test]
    fn narrower_patterns_detach() {
        let none = Patterns::default();
        assert_eq!(plan(&current(&[(2, "eth0")]), &links(&[(2, "eth0", ETHER)]), &none), [Step::Detach { ifindex: 2 }]);
    }
}
