//! A fleet: the operator's program, and gateways simulated by the thousand.

mod client;
mod control;
mod gateway;
mod operator;
mod simulation;

pub use control::{Flaw, Running};
pub use operator::{Operator, Printed};
pub use simulation::Simulation;
