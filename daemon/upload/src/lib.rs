//! Files from outbox folders to an endpoint: resumable, in constant memory, kind to the link.

pub mod settings;
pub mod status;
pub mod window;
