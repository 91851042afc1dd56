//! The programs on an interface, under a policy written by hand.

use std::net::Ipv4Addr;

use tidegate::policy::{
    compile::{Options, compile},
    read,
};
use tidegate_abi::Slot;
use tidegate_tests::{
    Netns,
    net::{Ip, ethernet, ipv4},
    probes::{Context, Generation, Probes, Size},
};

use super::{INTERFACE, SLOT, blocks};

/// Where [`udp`] comes from.
pub(super) const PORT: u16 = 50_000;

/// The programs, and the interface that they see packets on.
pub(super) struct Stand {
    pub(super) probes: Probes,
    pub(super) ifindex: u32,
    here: Netns,
    _there: Netns,
}

impl Stand {
    pub(super) fn new() -> Self {
        let (here, there) = (Netns::new("here"), Netns::new("there"));
        here.join(INTERFACE, &there, "lan1");
        let ifindex = here.ifindex(INTERFACE);
        let mut probes = Probes::load();
        probes.cache(ifindex, Slot { ifindex, slot: SLOT });
        Self { probes, ifindex, here, _there: there }
    }

    /// Enforces a bundle of these rules.
    pub(super) fn enforce(&mut self, default: &str, rules: &str) -> Generation {
        let text = format!(r#"{{"version":1,"scope":{{"gateway":"gw-7"}},"default":"{default}","rules":[{rules}]}}"#);
        let bundle = read(text.as_bytes()).unwrap();
        let tables = compile(&bundle, &Options { number: 7, fragments_allow: false, expired: &|_| false }).unwrap();
        let generation = Generation::new(Size::Small, &blocks(&tables));
        self.probes.enforce(Some(&generation));
        generation
    }

    /// Runs a program `repeat` times on a packet; its last answer.
    pub(super) fn run(&self, program: &str, packet: &[u8], repeat: u32) -> i32 {
        self.run_in(program, packet, Context::default(), repeat)
    }

    pub(super) fn run_in(&self, program: &str, packet: &[u8], context: Context, repeat: u32) -> i32 {
        let context = Context { ifindex: self.ifindex, ..context };
        self.here.enter(|| self.probes.run(program, packet, context, repeat))
    }
}

/// A UDP packet from and to the same address.
pub(super) fn udp(address: Ipv4Addr, port: u16) -> Vec<u8> {
    let header = [PORT.to_be_bytes(), port.to_be_bytes(), 8_u16.to_be_bytes(), [0; 2]].concat();
    ethernet([2; 6], [3; 6], &[], 0x0800, &ipv4(Ip { from: address, to: address }, 17, &[], &header))
}
