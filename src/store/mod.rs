//! The docker/distribution file tree.
