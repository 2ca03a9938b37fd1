//! Front doors: what answers from a store.
