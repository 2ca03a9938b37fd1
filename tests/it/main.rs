//! Tests of the whole: one binary, a module per verb or subject.

mod support;
