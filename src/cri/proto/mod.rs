//! The interface's messages and services, as `runtime.proto` beside this file has them. `scripts/cri-proto` writes the code.

#![allow(missing_docs, clippy::all, unreachable_pub)]

include!("runtime.v1.rs");
