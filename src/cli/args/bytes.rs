//! Sizes in bytes.

/// Units by their letter, in powers of 1024.
const UNITS: &[(char, u32)] = &[('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// Parses a size such as `4G` or `700M`: a whole number, with K, M, G or T for a power of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let unit = UNITS.iter().find_map(|(letter, shift)| Some((upper.strip_suffix(*letter)?, *shift)));
    let (number, shift) = unit.unwrap_or((&upper, 0));
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|number| is_number && *number > 0);
    number.and_then(|number| number.checked_mul(1 << shift)).ok_or_else(|| {
        "a number of bytes is needed, or a number with K, M, G or T, such as 700M or 4G".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("1", Some(1)),
            ("700M", Some(700 << 20)),
            ("4g", Some(4 << 30)),
            ("64K", Some(65536)),
            ("1T", Some(1 << 40)),
            ("0", None),
            ("", None),
            ("G", None),
            ("-1", None),
            ("+1", None),
            ("1.5G", None),
            ("4GB", None),
            ("99999999T", None),
        ] {
            assert_eq!(bytes(text).ok(), size, "{text}");
        }
    }
}
