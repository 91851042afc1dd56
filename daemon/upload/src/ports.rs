//! What connects the engine to the daemon.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{ask::Ask, event::Told, order::Order, settings::Settings, status::UploadStatus};

/// The engine's side of every channel.
#[derive(Debug)]
pub struct Ports {
    /// What it goes by.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// What people tell it to do; of [`crate::order::ORDERS`].
    pub orders: mpsc::Receiver<Order>,
    /// What people ask; of [`crate::ask::ASKS`].
    pub asks: mpsc::Receiver<Ask>,
    /// How it is.
    pub status: watch::Sender<UploadStatus>,
    /// What became of files; of [`crate::event::EVENTS`].
    pub events: mpsc::Sender<Told>,
    /// Whether what is more important wants the link: uploads wait for that.
    pub first: watch::Receiver<bool>,
    /// Ends it: within a second, wherever a file is.
    pub shutdown: CancellationToken,
}
