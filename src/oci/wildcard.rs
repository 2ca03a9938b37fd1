//! Patterns with wildcards: `*` for any characters, `?` for one.

/// Whether `text` matches `pattern`, in time bounded by the product of their lengths.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern = pattern.as_bytes();
    let text = text.as_bytes();
    let mut at = (0, 0);
    // Where to go on after the last star, with one more byte for it.
    let mut star: Option<(usize, usize)> = None;
    while at.1 < text.len() {
        match pattern.get(at.0) {
            Some(b'*') => {
                star = Some((at.0 + 1, at.1));
                at.0 += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[at.1] => at = (at.0 + 1, at.1 + 1),
            _ => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    at = (after, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at.0..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    #[test]
    fn wildcards_match_any_characters() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("application/*spdx*", "application/spdx+json", true),
            ("application/*spdx*", "application/vnd.cyclonedx+json", false),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
        ] {
            assert_eq!(super::matches(pattern, text), expect, "{pattern} {text}");
        }
    }
}
