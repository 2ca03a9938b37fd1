//! Servers over a store.

pub(crate) mod accept;
pub mod http;
