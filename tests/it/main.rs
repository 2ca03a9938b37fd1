//! Tests of the whole: one binary, a module per verb or subject.

// A test fails by panicking, in the functions that tests share too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod architecture;
mod automation;
mod build_context;
mod bundle;
mod chaos;
mod charts;
mod cli;
mod completeness;
mod concurrent_runs;
mod crash;
mod credentials;
mod cri;
mod diff;
mod disk;
mod documents;
mod export;
mod export_progress;
mod faults;
mod gc;
mod helm;
mod import;
mod inspect;
mod interop;
mod kill;
mod list;
mod locks;
mod ls;
mod messages;
mod model;
mod nodes;
mod policy;
mod provenance;
mod prune;
mod push;
mod referrer_hops;
mod referrers;
mod registry;
mod repair;
mod samples;
mod save;
mod scan;
mod schemas;
mod select;
mod serve;
mod snapshots;
mod store;
mod support;
mod verify;
