//! The engine against a model: random image graphs, random choices, random faults, random stops.
//!
//! `graph` makes registries full of images that share everything they can; `expect` computes from the graph, with none
//! of the engine's code, what must come of a run; `flaky` is a registry that fails as scripted; `random` compares.

mod expect;
mod flaky;
mod flight;
mod found;
mod graph;
mod random;
