//! What the tests share.

pub(crate) mod peers;
pub(crate) mod samples;
