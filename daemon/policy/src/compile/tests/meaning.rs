//! What the tables say of a packet is what the evaluator says.

use std::net::IpAddr;

use proptest::prelude::*;
use tidegate_abi::policy::Tree;

use super::{generate::*, *};
use crate::{
    Fragments, Packet,
    evaluate::{By, Content, Direction, Upper, evaluate},
    tables::{Key, walk},
};

proptest! {
    #[test]
    fn tables_judge_as_the_evaluator_does((bundle, packets) in bundle_and_packets(), old in any::<u64>()) {
        // Each rule expires in some cases: about every fourth, so that most are left.
        let expired = |rule: usize| old >> (rule % 64) & old >> ((rule + 17) % 64) & 1 == 1;
        let tables = compile(&bundle, &Options { expired: &expired, ..FRESH }).unwrap();
        for packet in packets {
            agree(&bundle, &tables, &packet, &expired)?;
        }
    }
}

fn agree(
    bundle: &Bundle,
    tables: &Tables,
    packet: &Packet<'_>,
    expired: &dyn Fn(usize) -> bool,
) -> Result<(), TestCaseError> {
    let expected = match evaluate(bundle, packet, Fragments::Drop, expired).by {
        By::Rule(index) => index + 1,
        By::Default | By::Fragments => 0,
        By::Exempt(_) => return Ok(()),
    };
    let key = Key::of(packet, &tables.interface_lists).unwrap();
    let rule = walk(&tables.blocks, &key).expect("the compiler's tables lead somewhere");
    prop_assert_eq!(rule as usize, expected, "{:?}", packet);
    Ok(())
}

/// Trees of several levels, which the few rules above do not make.
#[test]
fn a_tree_of_thousands_of_prefixes_finds_each_at_its_edges() {
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut prefixes: Vec<_> = (0..3_000)
        .map(|number| {
            let bits = draw();
            let length = 8 + (draw() % 25) as u8;
            if number % 2 == 0 {
                Prefix::around(IpAddr::V4((bits as u32 & 0x0FFF_FFFF).into()), length).unwrap()
            } else {
                let bits = u128::from(bits) << 50 | u128::from(draw() % 4);
                Prefix::around(IpAddr::V6(bits.into()), length * 4).unwrap()
            }
        })
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let mut bundle = empty(DefaultAction::Allow);
    for (number, some) in prefixes.chunks(7).enumerate() {
        bundle.push(drop_all(&format!("rule-{number}"), some));
    }
    let tables = compile(&bundle, &FRESH).unwrap();
    assert!([tables.header().v4, tables.header().v6].iter().all(|tree| Tree::unpack(*tree).depth >= 4));
    for prefix in prefixes.iter().step_by(5) {
        for place in 0..4 {
            let content = Content::Ip { peer: beside(*prefix, place).unwrap(), upper: Upper::TooDeep };
            let packet = Packet { direction: Direction::Ingress, interface: "eth0", content };
            agree(&bundle, &tables, &packet, &|_| false).unwrap();
        }
    }
}
