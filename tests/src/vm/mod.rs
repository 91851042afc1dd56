//! The gateway, whole: an ARM64 kernel with 512 MB, in emulation.
//!
//! Two machines share one disk image. **Debian** is Debian 13 with systemd, for what users get: packages, units, the
//! journal. **Bare** is the same disk with a shell as its first process, two seconds after power-on, for what needs
//! a kernel and no more. Both run on Debian 13's kernel (6.12) or on Debian 12's (6.1).
//!
//! ```no_run
//! # use tidegate_tests::{Broker, vm::Machine};
//! let machine = Machine::debian().resume();
//! machine.run("systemctl is-system-running").ok();
//! let broker = Broker::start();
//! machine.run(&format!("mosquitto_pub -h 10.0.2.2 -p {} -t hello -m world", broker.port())).ok();
//! machine.cut_power();
//! ```
//!
//! - [`images`] builds disk and kernels from Debian packages, once, and keeps them below `target/vm`.
//! - [`Machine`] boots, runs scripts through an agent in the machine, moves files, cuts the power. The loopback of
//!   the host is 10.0.2.2 for the machine; nothing of the machine listens on the host.
//! - A machine that booted once is kept as it was then: [`MachineBuilder::resume`] starts from there in a second.
//! - [`StateDisk`] is a disk with a volatile write cache: what was not flushed is lost at a power cut.
//!
//! Emulation is some ten times slower than hardware: deadlines are generous, and times mean nothing.

mod agent;
mod disk;
mod image;
mod machine;
mod monitor;
mod qcow2;
mod tidegate;

pub use self::{
    agent::Output,
    disk::StateDisk,
    image::{Images, Kernel, images},
    machine::{Machine, MachineBuilder},
    tidegate::available,
};
