//! saver
