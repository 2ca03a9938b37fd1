//! The parts of HPACK (RFC 7541) that finding a header's value requires: integers, strings and the Huffman code.

/// Decodes the primitives of RFC 7541, section 5.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Reader<'_> {
    pub(super) fn integer(&mut self, prefix: u32) -> Option<usize> {
        let mask = (1_usize << prefix) - 1;
        let mut value = usize::from(*self.bytes.get(self.at)?) & mask;
        self.at += 1;
        if value < mask {
            return Some(value);
        }
        let mut shift = 0;
        loop {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value = value.checked_add(usize::from(byte & 0x7f).checked_shl(shift)?)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
            if shift > 21 {
                return None;
            }
        }
    }

    pub(super) fn text(&mut self) -> Option<Vec<u8>> {
        let huffman = self.bytes.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let text = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        if huffman { huffman_decode(text) } else { Some(text.to_vec()) }
    }
}

/// Encodes the length of a string that is not Huffman-coded.
pub(super) fn write_integer(mut value: usize, into: &mut Vec<u8>) {
    if value < 0x7f {
        into.push(value as u8);
        return;
    }
    into.push(0x7f);
    value -= 0x7f;
    while value > 0x7f {
        into.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    into.push(value as u8);
}

/// HPACK's Huffman code (RFC 7541, appendix B): pairs of a length in bits and the number of codes of that length. The code is
/// canonical, so the lengths and the symbols in code order define it.
pub(super) const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

/// The symbol EOS, which must not occur.
const END_OF_STRING: usize = 256;
/// The symbols of the codes up to 15 bits, and `\`. Symbols with longer codes do not occur in authorities.
const SYMBOLS: &[u8] =
    b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz&*,;XZ!\"()?'+|#>\0$@[]~^}<`{\\";

/// Decodes a Huffman-coded string; `None` if it is malformed. Symbols that are not in [`SYMBOLS`] become the byte 0xff.
pub(super) fn huffman_decode(packed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(packed.len() * 2);
    let bit = |at: usize| u32::from(packed[at / 8] >> (7 - at % 8) & 1);
    let end = packed.len() * 8;
    let mut at = 0;
    'symbols: while at < end {
        let mut code = 0;
        let mut length = 0;
        let mut first = 0;
        let mut index = 0;
        let mut read = at;
        for (bits, count) in CODES {
            while length < bits {
                if read == end {
                    // The rest is padding: fewer than eight bits, all ones.
                    let padding = (at..end).all(|at| bit(at) == 1) && end - at < 8;
                    return padding.then_some(text);
                }
                code = code << 1 | bit(read);
                read += 1;
                first <<= 1;
                length += 1;
            }
            if code < first + count {
                let symbol = usize::try_from(index + code - first).ok()?;
                if symbol == END_OF_STRING {
                    return None;
                }
                text.push(SYMBOLS.get(symbol).copied().unwrap_or(u8::MAX));
                at = read;
                continue 'symbols;
            }
            first += count;
            index += count;
        }
        return None;
    }
    Some(text)
}
