//! The engine: moves images from a source to a sink.
