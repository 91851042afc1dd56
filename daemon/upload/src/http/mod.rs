//! HTTP as an upload needs it: one connection, one request at a time, every wait with an end.

mod address;
mod connection;
mod dial;
mod exchange;
mod io;
mod proxy;
mod route;
mod tcp;
mod tls;

pub(crate) use address::same_server;
pub use address::{join, redirected};
pub(crate) use connection::Connection;
pub use exchange::Answer;
pub(crate) use exchange::{Clocks, Hold, get, next};
pub(crate) use tls::Tls;
