//! `tidegate-fleet`: a folder of TOML files becomes what every gateway should be.
//!
//! ```text
//!   folder ─────────┐
//!                   ├─► plan ──► documents, published retained ──► gateways
//!   broker ─► seen ─┘                                                 │
//!               ▲                                                     │
//!               └──────────────────── reports ◄───────────────────────┘
//!               └─► standing: is each gateway as wanted?
//! ```
//!
//! The folder is the truth, and nothing else is kept: what there is to change, and under which version, follows from
//! the folder and from what the broker retains. [`plan`] and [`standing`] decide and are pure; [`broker`] is the only
//! module that names an MQTT library; [`observer`] keeps what the broker says, across lost connections; [`apply`]
//! publishes and waits.

pub mod apply;
pub mod broker;
pub mod cli;
pub mod credentials;
pub mod document;
pub mod folder;
pub mod intents;
pub mod observer;
pub mod plan;
pub mod report;
pub mod seen;
pub mod standing;
pub mod target;
