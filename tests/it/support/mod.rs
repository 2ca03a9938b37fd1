//! What the tests share.

pub(crate) mod charts;
pub(crate) mod cri;
pub(crate) mod crictl;
pub(crate) mod fault;
pub(crate) mod fleet;
pub(crate) mod handmade;
pub(crate) mod images;
pub(crate) mod mount;
pub(crate) mod peers;
pub(crate) mod power_loss;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod registry_model;
pub(crate) mod relay;
pub(crate) mod samples;
pub(crate) mod scratch;
pub(crate) mod serving;
pub(crate) mod signing;
pub(crate) mod stopping;
pub(crate) mod tree;
