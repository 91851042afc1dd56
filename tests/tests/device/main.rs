//! The gateway on its own kind of machine: ARM64, 512 MB, systemd, power that goes.

mod boot;
mod clock;
mod disks;
mod gateway;
mod harness;
mod kernels;
mod managed;
mod memory;
mod package;
mod policy;
mod power;
mod provision;
mod readme;
mod service;
mod storm;
mod supervision;
mod upload;

use std::time::Duration;

/// Far above what anything takes in emulation on a busy machine.
const LONG_WAIT: Duration = Duration::from_mins(3);
