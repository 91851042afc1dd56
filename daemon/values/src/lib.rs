//! Single values as people and protocols write them: read, checked and written, without knowing what they are for.
//!
//! All of it is pure: text and bytes go in, a value or what is wrong with it comes out, and nothing makes it panic. Crates
//! that judge what comes from strangers stand on this one, so that a moment, a key or a size reads alike wherever it stands.

pub mod base64;
pub mod calendar;
pub mod digest;
pub mod ed25519;
pub mod excerpt;
pub mod json;
pub mod patterns;
pub mod pem;
pub mod public_key;
pub mod suggest;
pub mod units;

pub use self::{
    digest::Digest,
    excerpt::excerpt,
    patterns::Patterns,
    public_key::PublicKey,
    suggest::nearest,
    units::{Size, Span},
};
