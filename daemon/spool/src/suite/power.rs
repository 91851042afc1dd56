//! Power cuts at every step of the storage, on the model disk.

use proptest::prelude::*;

use super::{
    disk::Model,
    modeled::{Driver, Op, block_on},
};
use crate::LossReason;

fn batch() -> impl Strategy<Value = Vec<(bool, u8, u16)>> {
    let length = prop_oneof![8 => 0u16..300, 2 => 300u16..6000, 1 => 20_000u16..40_000];
    proptest::collection::vec((prop::bool::weighted(0.3), 0u8..3, length), 1..5)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => proptest::collection::vec(batch(), 1..4).prop_map(Op::Append),
        4 => (any::<bool>(), 0u8..40, 0u8..40).prop_map(|(event, read, acknowledge)| Op::Deliver { event, read, acknowledge }),
        1 => Just(Op::Report),
        1 => Just(Op::Wait),
        1 => Just(Op::Restart),
        1 => Just(Op::Kill),
    ]
}

/// Rounds of operations, each ended by a power cut in some call, or after the last.
fn rounds() -> impl Strategy<Value = Vec<(Vec<Op>, u64)>> {
    proptest::collection::vec((proptest::collection::vec(op(), 1..25), 0u64..200), 1..4)
}

async fn drive(disk: Model, rounds: &[(Vec<Op>, u64)]) -> Result<(), String> {
    let mut driver = Driver::new(disk.clone());
    for (ops, cut) in rounds {
        disk.cut_power_in(*cut);
        for op in ops {
            if !driver.step(op).await? {
                break;
            }
        }
        driver.power_cut().await;
        driver.settle(&[LossReason::Evicted]).await?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_records_survive_a_power_cut_in_any_call(seed: u64, rounds in rounds()) {
        let outcome = block_on(drive(Model::new(seed), &rounds));
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

/// A fixed run: fills segments of both lanes, delivers, evicts, restarts.
pub(super) fn script() -> Vec<Op> {
    let mut ops = Vec::new();
    for round in 0u16..12 {
        let batch = |stream, length| vec![(false, stream, length); 3];
        ops.push(Op::Append(vec![batch(0, 5000 + round), vec![(true, 0, 100)], batch(1, 10)]));
        ops.push(Op::Append(vec![vec![(false, 2, 9000)], vec![(true, 1, 2000); 4]]));
        if round % 3 == 1 {
            ops.push(Op::Deliver { event: true, read: 10, acknowledge: 7 });
            ops.push(Op::Deliver { event: false, read: 4, acknowledge: 2 });
        }
        if round == 5 {
            ops.push(Op::Restart);
        }
        if round % 4 == 3 {
            ops.push(Op::Report);
            ops.push(Op::Wait);
        }
    }
    ops
}

#[test]
fn a_power_cut_in_each_call_of_a_run_loses_nothing() {
    let ops = script();
    let calls = {
        let disk = Model::new(0);
        block_on(drive(disk.clone(), &[(ops.clone(), u64::MAX / 2)])).unwrap();
        disk.calls()
    };
    assert!(calls > 200, "the run should exercise the disk, {calls} calls");
    for call in 0..calls {
        // A short life after the cut, and a second cut in it.
        let after = (script()[..6].to_vec(), call % 23);
        let outcome = block_on(drive(Model::new(call), &[(ops.clone(), call), after]));
        assert_eq!(outcome, Ok(()), "power cut in call {call}");
    }
}

#[test]
fn without_syncs_acknowledged_records_are_lost() {
    let lost = (0..50).filter(|seed| {
        let disk = Model::new(*seed);
        disk.let_syncs_lie();
        block_on(drive(disk, &[(script(), 150)])).is_err()
    });
    assert!(lost.count() > 25, "the promise must not hold by accident");
}
