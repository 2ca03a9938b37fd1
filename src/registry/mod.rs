//! The registry client: one session per registry.
