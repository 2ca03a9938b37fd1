//! The parts of messages about a server.

use crate::error::{Error, ErrorKind, Side};
use std::fmt;

/// The most characters of a server's text that a message quotes.
const MAX_QUOTE: usize = 300;

/// An error on the side of the source.
pub(super) fn failure(kind: ErrorKind, subject: impl fmt::Display, message: impl Into<String>) -> Error {
    Error::new(kind, subject, message).on(Side::Source)
}

/// A server's text made safe to print: one line, bounded, without control and direction characters.
pub(super) fn quotable(text: &str) -> String {
    let unfit = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let plain: String = text.chars().map(|c| if unfit(c) { ' ' } else { c }).collect();
    let joined = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}...", &joined[..end]),
        None => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_text_is_made_safe_to_print() {
        for (text, expect) in [
            ("a\x1b[31mred\x07\r\nb", "a [31mred b"),
            ("\u{202e}evil\u{9b}0m", "evil 0m"),
            ("  plain  ", "plain"),
        ] {
            assert_eq!(quotable(text), expect);
        }
        assert_eq!(quotable(&"é".repeat(1000)).chars().count(), MAX_QUOTE + 3);
    }
}
