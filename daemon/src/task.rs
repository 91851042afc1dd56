//! Tasks in boxes, so that the runtime's part of a task is compiled once.
//!
//! tokio keeps, polls and drops a task by code of its own for each type of future, twice, for there are two schedulers: some
//! 2 KB. A box costs an allocation for each task; ours live as long as a connection, most as long as the daemon.

use std::pin::Pin;

use tokio::task::JoinHandle;

/// A future of which only the output is known.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The future in a box, to be spawned.
pub(crate) fn boxed<T>(future: impl Future<Output = T> + Send + 'static) -> Boxed<T> {
    Box::pin(future)
}

/// As [`tokio::spawn`].
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(boxed(future))
}
