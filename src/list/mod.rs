//! Image-list grammars: files in, entries and `file:line` errors out. Pure.
