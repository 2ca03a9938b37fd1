//! Servers that answer from a store.

pub(crate) mod accept;
pub mod http;
