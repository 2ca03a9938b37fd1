//! Eight streams at once on CPUs without SHA instructions: every 32-bit word of the algorithm is a register of eight, one
//! element for each stream.
//!
//! The same code is compiled a second time for CPUs with AVX-512VL (most servers without SHA instructions have it), which has
//! rotations and three-operand logic as single instructions. With all eight lanes a core of an AMD EPYC needs 0.81 s/GiB, or
//! 0.51 with AVX-512VL; the portable code of the `sha2` crate needs 2.30.

use super::{BLOCK, Block, Chain, K};
use std::arch::x86_64::*;

/// The number of streams that the kernel takes.
pub(super) const LANES: usize = 8;

/// A message block's words.
const WORDS: usize = BLOCK / 4;

/// Proof that this CPU has the instructions that the kernel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2 {
    avx512: bool,
}

impl Avx2 {
    /// The best that the CPU has.
    pub(super) fn detect() -> Option<Self> {
        Self::all().last()
    }

    /// All that the CPU has, the best last.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let avx2 = is_x86_feature_detected!("avx2");
        let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
        let found = [avx2.then_some(Self { avx512: false }), avx512.then_some(Self { avx512: true })];
        found.into_iter().flatten()
    }

    /// Its name in benchmarks.
    pub(super) fn name(self) -> &'static str {
        if self.avx512 { "avx512vl" } else { "avx2" }
    }

    /// With fewer streams one after the other is faster.
    pub(super) fn fewest(self) -> usize {
        if self.avx512 { 2 } else { 3 }
    }

    /// Compresses blocks of each lane into its chain: as many as the shortest lane has.
    pub(super) fn compress(self, chains: &mut [Chain; LANES], blocks: [&[Block]; LANES]) {
        // SAFETY: a value of this type exists only if `all` detected the features that the function was compiled
        // with.
        unsafe { if self.avx512 { compress_avx512(chains, blocks) } else { compress_avx2(chains, blocks) } }
    }
}

// No state register is moved from round to round: the names A to H rotate instead, so that every index is a constant. The
// body is a macro because it is compiled for each set of features, and inlining a function of this size is not guaranteed.
macro_rules! kernel {
    ($name:ident, $features:literal, $($round:literal)*) => {
        #[target_feature(enable = $features)]
        fn $name(chains: &mut [Chain; LANES], blocks: [&[Block]; LANES]) {
            let mut count = usize::MAX;
            for lane in blocks {
                count = count.min(lane.len());
            }
            let mut state = load_chains(chains);
            for at in 0..count {
                let before = state;
                let mut schedule = load_blocks(blocks, at);
                for (number, constants) in K.as_chunks::<4>().0.iter().enumerate() {
                    let constants = constants.as_flattened();
                    $(
                        if number > 0 {
                            schedule[$round] = next_word([
                                schedule[$round],
                                schedule[($round + 1) % WORDS],
                                schedule[($round + 9) % WORDS],
                                schedule[($round + 14) % WORDS],
                            ]);
                        }
                        let wk = _mm256_add_epi32(schedule[$round], splat(constants[$round]));
                        let [d, h] = round([
                            state[(16 - $round) % 8],
                            state[(17 - $round) % 8],
                            state[(18 - $round) % 8],
                            state[(19 - $round) % 8],
                            state[(20 - $round) % 8],
                            state[(21 - $round) % 8],
                            state[(22 - $round) % 8],
                            state[(23 - $round) % 8],
                        ], wk);
                        state[(19 - $round) % 8] = d;
                        state[(23 - $round) % 8] = h;
                    )*
                }
                for (word, before) in state.iter_mut().zip(before) {
                    *word = _mm256_add_epi32(*word, before);
                }
            }
            store_chains(chains, state);
        }
    };
}
kernel!(compress_avx2, "avx2", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
kernel!(compress_avx512, "avx2,avx512f,avx512vl", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

/// One round (FIPS 180-4, section 6.2.2, step 3): writes the new E in the place of D, and the new A in that of H.
#[inline]
#[target_feature(enable = "avx2")]
fn round([a, b, c, d, e, f, g, h]: [__m256i; 8], wk: __m256i) -> [__m256i; 2] {
    let choice = _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(f, g), e), g);
    // The first of these is the second of the next round: the compiler keeps it.
    let majority = _mm256_xor_si256(b, _mm256_and_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(b, c)));
    let sum1 = xor3(rotate::<6, 26>(e), rotate::<11, 21>(e), rotate::<25, 7>(e));
    let sum0 = xor3(rotate::<2, 30>(a), rotate::<13, 19>(a), rotate::<22, 10>(a));
    let t1 = _mm256_add_epi32(_mm256_add_epi32(h, wk), _mm256_add_epi32(sum1, choice));
    let t2 = _mm256_add_epi32(sum0, majority);
    [_mm256_add_epi32(d, t1), _mm256_add_epi32(t1, t2)]
}

/// A word of the message schedule (FIPS 180-4, section 6.2.2, step 1) from those 16, 15, 7 and 2 before it.
#[inline]
#[target_feature(enable = "avx2")]
fn next_word([w16, w15, w7, w2]: [__m256i; 4]) -> __m256i {
    let sigma0 = xor3(rotate::<7, 25>(w15), rotate::<18, 14>(w15), _mm256_srli_epi32::<3>(w15));
    let sigma1 = xor3(rotate::<17, 15>(w2), rotate::<19, 13>(w2), _mm256_srli_epi32::<10>(w2));
    _mm256_add_epi32(_mm256_add_epi32(w16, sigma0), _mm256_add_epi32(w7, sigma1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor3(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_xor_si256(_mm256_xor_si256(a, b), c)
}

/// Each element rotated right; `LEFT` is 32 less `RIGHT`.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate<const RIGHT: i32, const LEFT: i32>(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(x), _mm256_slli_epi32::<LEFT>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

/// The eight words of one stream as a register.
#[inline]
#[target_feature(enable = "avx2")]
fn load(words: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// The words of block `at` of every stream: register `n` holds word `n` of each.
#[inline]
#[target_feature(enable = "avx2")]
fn load_blocks(blocks: [&[Block]; LANES], at: usize) -> [__m256i; WORDS] {
    let swap = _mm256_set_epi64x(
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
    );
    let (mut low, mut high) = ([_mm256_setzero_si256(); LANES], [_mm256_setzero_si256(); LANES]);
    for lane in 0..LANES {
        let (halves, _) = blocks[lane][at].as_chunks::<32>();
        low[lane] = _mm256_shuffle_epi8(load(&halves[0]), swap);
        high[lane] = _mm256_shuffle_epi8(load(&halves[1]), swap);
    }
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (transpose(low), transpose(high));
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The chaining values, a register for each of A to H.
#[inline]
#[target_feature(enable = "avx2")]
fn load_chains(chains: &[Chain; LANES]) -> [__m256i; 8] {
    let mut rows = [_mm256_setzero_si256(); LANES];
    for lane in 0..LANES {
        // SAFETY: a chain has the 32 bytes that are read, and the load needs no alignment.
        rows[lane] = unsafe { _mm256_loadu_si256(chains[lane].as_ptr().cast()) };
    }
    transpose(rows)
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_chains(chains: &mut [Chain; LANES], state: [__m256i; 8]) {
    let rows = transpose(state);
    for lane in 0..LANES {
        // SAFETY: a chain has the 32 bytes that are written, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(chains[lane].as_mut_ptr().cast(), rows[lane]) };
    }
}

/// Transposes rows and columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
    // Pairs of rows, then of pairs, both within the halves of the registers; then the halves.
    let p = [
        _mm256_unpacklo_epi32(r[0], r[1]),
        _mm256_unpackhi_epi32(r[0], r[1]),
        _mm256_unpacklo_epi32(r[2], r[3]),
        _mm256_unpackhi_epi32(r[2], r[3]),
        _mm256_unpacklo_epi32(r[4], r[5]),
        _mm256_unpackhi_epi32(r[4], r[5]),
        _mm256_unpacklo_epi32(r[6], r[7]),
        _mm256_unpackhi_epi32(r[6], r[7]),
    ];
    let q = [
        _mm256_unpacklo_epi64(p[0], p[2]),
        _mm256_unpackhi_epi64(p[0], p[2]),
        _mm256_unpacklo_epi64(p[1], p[3]),
        _mm256_unpackhi_epi64(p[1], p[3]),
        _mm256_unpacklo_epi64(p[4], p[6]),
        _mm256_unpackhi_epi64(p[4], p[6]),
        _mm256_unpacklo_epi64(p[5], p[7]),
        _mm256_unpackhi_epi64(p[5], p[7]),
    ];
    [
        _mm256_permute2x128_si256::<0x20>(q[0], q[4]),
        _mm256_permute2x128_si256::<0x20>(q[1], q[5]),
        _mm256_permute2x128_si256::<0x20>(q[2], q[6]),
        _mm256_permute2x128_si256::<0x20>(q[3], q[7]),
        _mm256_permute2x128_si256::<0x31>(q[0], q[4]),
        _mm256_permute2x128_si256::<0x31>(q[1], q[5]),
        _mm256_permute2x128_si256::<0x31>(q[2], q[6]),
        _mm256_permute2x128_si256::<0x31>(q[3], q[7]),
    ]
}
