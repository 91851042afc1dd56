//! What is more than the tables hold is refused, with the figure; what is just not more is taken.

use std::net::{Ipv4Addr, Ipv6Addr};

use tidegate_abi::policy::{LARGE_BLOCKS, SMALL_BLOCKS};

use super::*;
use crate::{
    bundle::{MAX_PREFIXES, Ports},
    tables::Size,
};

/// As many rules, each as `make` says.
fn rules<'a>(count: usize, prefixes: &'a [Prefix], make: impl Fn(usize, &mut NewRule<'a>)) -> Bundle {
    let mut bundle = empty(DefaultAction::Allow);
    for number in 0..count {
        let mut rule = drop_all("", prefixes);
        make(number, &mut rule);
        bundle.push(NewRule { name: &format!("rule-{number}"), ..rule });
    }
    bundle
}

fn on_port(port: usize) -> Conditions {
    let port = u16::try_from(port).unwrap();
    Conditions { ports: vec![Ports { first: port, last: port }], ..Conditions::default() }
}

#[test]
fn an_address_faces_at_most_64_rules() {
    let nest: Vec<_> = (0..=32).map(|length| prefix(&format!("0.0.0.0/{length}"))).collect();
    for (prefixes, inner) in [(&nest[8..9], "0.0.0.0/8"), (&nest[..], "0.0.0.0/0")] {
        let tcp = |port, rule: &mut NewRule<'_>| (rule.protocol, rule.conditions) = (Some(6), on_port(port));
        assert!(compile(&rules(64, prefixes, tcp), &FRESH).is_ok(), "each counts once, however many prefixes it has");
        let refused = compile(&rules(65, prefixes, tcp), &FRESH).unwrap_err();
        assert_eq!(refused, CompileError::Candidates { prefix: prefix(inner), found: 65 });
        assert_eq!(refused.to_string(), format!("addresses in {inner} face 65 rules, at most 64 are accepted"));
        assert!(compile(&rules(65, prefixes, tcp), &Options { expired: &|rule| rule == 7, ..FRESH }).is_ok());
    }
}

#[test]
fn an_address_faces_the_rules_of_prefixes_around_it() {
    let outer = [prefix("2001:db8::/32")];
    let mut bundle = rules(64, &outer, |_, _| {});
    bundle.push(drop_all("beside", &[prefix("2001:db9::/128")]));
    assert!(compile(&bundle, &FRESH).is_ok());
    bundle.push(drop_all("inside", &[prefix("2001:db8::7/128")]));
    let refused = compile(&bundle, &FRESH);
    assert_eq!(refused, Err(CompileError::Candidates { prefix: prefix("2001:db8::7/128"), found: 65 }));
}

#[test]
fn fifteen_protocols_have_groups() {
    let all = [prefix("0.0.0.0/0")];
    let named = |number, rule: &mut NewRule<'_>| rule.protocol = Some(u8::try_from(number).unwrap());
    assert_eq!(compile(&rules(15, &all, named), &FRESH).unwrap().header().groups, 16);
    assert_eq!(compile(&rules(16, &all, named), &FRESH), Err(CompileError::Protocols { found: 16 }));
    let sparse: Vec<_> = (0..256_u32).map(|number| prefix(&format!("10.0.{number}.0/24"))).collect();
    let mut bundle = empty(DefaultAction::Allow);
    for (number, prefix) in sparse.chunks(1).enumerate() {
        let mut rule = drop_all("", prefix);
        named(number, &mut rule);
        bundle.push(rule);
    }
    assert_eq!(compile(&bundle, &FRESH), Err(CompileError::Protocols { found: 256 }));
}

#[test]
fn sixteen_interface_lists_have_bits() {
    let all = [prefix("0.0.0.0/0")];
    let named = |number: usize, rule: &mut NewRule<'_>| {
        rule.conditions.interfaces = [format!("eth{}", number / 2), format!("wwan{}", number / 2)].into();
    };
    let tables = compile(&rules(32, &all, named), &FRESH).unwrap();
    assert_eq!(tables.interface_lists.len(), 16);
    assert_eq!(*tables.interface_lists[15], ["eth15", "wwan15"]);
    assert_eq!(compile(&rules(33, &all, named), &FRESH), Err(CompileError::InterfaceLists { found: 17 }));
}

/// As many single addresses, no two side by side.
fn apart(count: usize) -> Vec<Prefix> {
    let address = |number: usize| Ipv4Addr::from_bits(u32::try_from(number).unwrap() * 2 + 0x0A00_0000);
    (0..count).map(|number| Prefix::new(address(number).into(), 32).unwrap()).collect()
}

/// The same, each with a high half of its own.
fn apart_v6(count: usize) -> Vec<Prefix> {
    let address = |number: usize| Ipv6Addr::from_bits((number as u128 * 2 + (0x2001_0DB8 << 32)) << 64 | 7);
    (0..count).map(|number| Prefix::new(address(number).into(), 128).unwrap()).collect()
}

#[test]
fn the_largest_bundles_fit() {
    for prefixes in [apart(MAX_PREFIXES), apart_v6(MAX_PREFIXES)] {
        let one = compile(&rules(1, &prefixes, |_, _| {}), &FRESH).unwrap();
        assert_eq!(one.blocks.len(), one.header().blocks as usize);
        let many =
            compile(&rules(MAX_PREFIXES, &[], |number, rule| rule.prefixes = &prefixes[number..=number]), &FRESH);
        let many = many.unwrap();
        println!("{} blocks with one rule, {} with a rule for each prefix", one.blocks.len(), many.blocks.len());
        assert_eq!(many.size(), Size::Large);
        assert!(one.blocks.len() < SMALL_BLOCKS as usize * 3 / 2);
    }
}

#[test]
fn tables_over_8_mib_are_refused_with_what_they_take() {
    // 65,536 rules with a rate take 4 MiB for their rates, 2 for themselves, 2 for trees: more where they have classes
    // with many protocols.
    let prefixes = apart(MAX_PREFIXES);
    let rate = Box::new(bundle::Limit { pps: 1, burst: 1, per_peer: false });
    let bundle = rules(MAX_PREFIXES, &[], |number, rule| {
        rule.prefixes = &prefixes[number..=number];
        rule.action = Action::Limit(rate.clone());
        rule.protocol = Some(u8::try_from(number % 15).unwrap());
    });
    let Err(CompileError::TooLarge { bytes }) = compile(&bundle, &FRESH) else { panic!("it fits") };
    // Trees 131,073 words and nodes, classes 65,537 rows of 32 words, rules, rates.
    assert!((15 << 20..17 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn lists_that_grow_beyond_all_bounds_end_early() {
    // 64 rules that cut the ports into 32,768 segments for 1,000 prefixes in different ways each.
    let ports = |odd: usize| {
        let each = (0..32_768_u16).map(|n| n * 2 + u16::from(odd % 2 == 1)).map(|n| Ports { first: n, last: n });
        Conditions { ports: each.collect(), ..Conditions::default() }
    };
    let prefixes = apart(1_000);
    let bundle = rules(1_000, &[], |number, rule| {
        rule.prefixes = &prefixes[number..=number];
        (rule.protocol, rule.conditions) = (Some(17), ports(number));
    });
    let Err(CompileError::TooLarge { bytes }) = compile(&bundle, &FRESH) else { panic!("it fits") };
    assert!(bytes > LARGE_BLOCKS as usize * 64 && bytes < 10 << 20, "{bytes}");
}

/// A rule for each /24, and inside of each, in both of its halves, another one that hides it: whatever the rule outside is,
/// the same is decided.
fn hidden(count: u32, conditions: &Conditions, protocol: Option<u8>, mut bundle: Bundle) -> Bundle {
    let within = |number: u32, at: u32, length| {
        Prefix::new(Ipv4Addr::from_bits(0x0A00_0000 + number * 256 + at).into(), length).unwrap()
    };
    for number in 0..count {
        let outer = [within(number, 0, 24)];
        let rule = NewRule { protocol, conditions: conditions.clone(), ..drop_all("", &outer) };
        bundle.push(NewRule { name: &format!("outer-{number}"), ..rule });
    }
    let halves: Vec<_> = (0..count).flat_map(|number| [within(number, 0, 25), within(number, 128, 25)]).collect();
    bundle.push(NewRule { protocol, conditions: conditions.clone(), ..drop_all("inner", &halves) });
    bundle
}

#[test]
fn rules_that_meet_in_too_many_ways_are_refused_though_little_comes_of_it() {
    let all = [prefix("0.0.0.0/0")];
    let base = |protocols: usize| {
        rules(2 * protocols, &all, |number, rule| {
            rule.protocol = Some(u8::try_from(number / 2).unwrap());
            rule.directions = if number % 2 == 0 { Directions::Ingress } else { Directions::Egress };
        })
    };
    let conditions = Conditions { interfaces: ["eth0".to_owned()].into(), ..Conditions::default() };
    let few = compile(&hidden(20_000, &conditions, None, base(2)), &FRESH).unwrap();
    assert_eq!(few.size(), Size::Small);
    let refused = compile(&hidden(20_000, &conditions, None, base(15)), &FRESH);
    assert_eq!(refused, Err(CompileError::Meetings));
}

#[test]
fn lists_of_ports_that_take_long_are_refused_though_little_comes_of_it() {
    let (all, every) = ([prefix("0.0.0.0/0")], Ports { first: 0, last: u16::MAX });
    let base = rules(59, &all, |number, rule| {
        let ports = (0..1_024).map(|n| n * 60 + u16::try_from(number).unwrap());
        rule.protocol = Some(6);
        rule.conditions.ports = ports.map(|port| Ports { first: port, last: port }).collect();
    });
    let conditions = Conditions { ports: vec![every], ..Conditions::default() };
    assert!(compile(&hidden(3, &conditions, Some(6), base.clone()), &FRESH).is_ok());
    assert_eq!(compile(&hidden(100, &conditions, Some(6), base), &FRESH), Err(CompileError::Steps));
}

/// One segment after the other, this takes a minute without optimisation.
#[test]
fn peer_ports_are_gone_through_once_for_all_ports_that_leave_the_same_rules() {
    let ports =
        |rule: u16| -> Vec<_> { (0..1_024).map(|n| n * 60 + rule).map(|n| Ports { first: n, last: n }).collect() };
    let all = [prefix("0.0.0.0/0")];
    let bundle = rules(59, &all, |number, rule| {
        let ports = ports(u16::try_from(number).unwrap());
        rule.protocol = Some(6);
        rule.conditions = Conditions { ports: ports.clone(), peer_ports: ports, ..Conditions::default() };
    });
    let tables = compile(&bundle, &FRESH).unwrap();
    // 59 trees by peer port of 2,048 words or so each, and one of 60,416 by port.
    assert!((15_000..40_000).contains(&tables.blocks.len()), "{}", tables.blocks.len());
}
