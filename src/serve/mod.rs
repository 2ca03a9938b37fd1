//! Front doors: what answers from a store.

pub mod http;
