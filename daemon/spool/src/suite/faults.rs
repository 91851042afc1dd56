//! No space and I/O errors in every call: intake pauses, nothing that was promised is lost, and it goes on.

use super::{
    disk::Model,
    modeled::{Driver, block_on},
    power::script,
};
use crate::LossReason;

/// Runs the script with `errno` in `length` calls from `first` on, then without errors.
async fn run(disk: Model, first: u64, length: u64, errno: i32, excused: &[LossReason]) -> Result<(), String> {
    let mut driver = Driver::new(disk.clone());
    driver.spool().await?;
    disk.fail(first..first + length, errno);
    for op in script() {
        match driver.step(&op).await {
            Ok(_) => {}
            // While errors last, opening and reading may fail for good: then there is nothing more to try.
            Err(error) if length > 1 && error.starts_with("cannot") => break,
            Err(error) => return Err(error),
        }
    }
    driver.heal().await?;
    driver.settle(excused).await?;
    // And the same after the page cache is gone.
    driver.power_cut().await;
    driver.settle(excused).await
}

fn calls_of_the_script() -> u64 {
    let disk = Model::new(0);
    block_on(run(disk.clone(), u64::MAX / 2, 1, libc::EIO, &[LossReason::Evicted])).unwrap();
    disk.calls()
}

#[test]
fn one_error_in_any_call_loses_nothing() {
    for call in 0..calls_of_the_script() {
        let errno = if call % 2 == 0 { libc::EIO } else { libc::ENOSPC };
        let outcome = block_on(run(Model::new(call), call, 1, errno, &[LossReason::Evicted]));
        assert_eq!(outcome, Ok(()), "errno {errno} in call {call}");
    }
}

#[test]
fn errors_that_last_are_survived() {
    // Reading may come upon blocks that stay unreadable: those records count as damaged.
    let excused = [LossReason::Evicted, LossReason::Damaged, LossReason::Unknown];
    for first in (0..calls_of_the_script()).step_by(11) {
        for (length, errno) in [(7, libc::ENOSPC), (40, libc::EIO), (200, libc::ENOSPC)] {
            let outcome = block_on(run(Model::new(first), first, length, errno, &excused));
            assert_eq!(outcome, Ok(()), "errno {errno} in {length} calls from {first} on");
        }
    }
}
