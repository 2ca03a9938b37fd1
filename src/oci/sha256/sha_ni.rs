//! The interleaved kernel for x86's SHA extensions (Intel SDM volume 1, "Intel SHA Extensions"). The register layout is that of
//! the instructions: one holds A, B, E, F, the other C, D, G, H.

use super::{Block, Chain, K};
use std::arch::x86_64::*;

/// The maximum number of streams of the kernel.
pub(super) const LANES: usize = 4;

/// Proof that this CPU has the instructions that the kernel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShaNi(());

impl ShaNi {
    /// Detects the features. Small cores with SHA instructions but no AVX (Intel's Goldmont and Tremont) hash one stream after the
    /// other, for which `sha2` uses the same instructions.
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("sha") && is_x86_feature_detected!("avx");
        has.then_some(Self(()))
    }

    /// Compresses blocks of each lane into its chain: as many as the shortest lane has.
    pub(super) fn compress<const N: usize>(self, chains: &mut [Chain; N], blocks: [&[Block]; N]) {
        // SAFETY: a value of this type exists only if `detect` found all features that
        // the kernel is compiled with.
        unsafe { compress(chains, blocks) }
    }
}

/// Repeats a statement for each lane, with its number as a constant. A loop would have to be unrolled, which a build for size
/// does not do: the registers of all lanes would live in memory, and two lanes take longer than one after the other.
macro_rules! each_lane {
    ($lane:ident => $body:expr) => {
        each_lane!(0 1 2 3; $lane => $body)
    };
    ($($number:literal)*; $lane:ident => $body:expr) => {$(
        if $number < N {
            let $lane = $number;
            $body;
        }
    )*};
}

// Neighbouring instructions belong to different lanes. What does not fit the 16 registers is spilled, which the spare load
// ports hide: measured, neither AVX-512's 32 registers nor a schedule computed in memory were faster. AVX is used for its
// three operands: without it a tenth of the time is moves between registers. The shape matters, each by about a tenth: `map` or
// `zip` over registers (a closure is inlined late, so the arrays must exist in memory) and a bounds check between the lanes'
// loads both cost spills.
#[target_feature(enable = "sha,avx")]
fn compress<const N: usize>(chains: &mut [Chain; N], blocks: [&[Block]; N]) {
    const { assert!(N <= LANES && LANES == 4, "`each_lane` names four") };
    let count = blocks.iter().map(|lane| lane.len()).min().unwrap_or(0);
    let starts = blocks.map(<[Block]>::as_ptr);
    let mut abef = [_mm_setzero_si128(); N];
    let mut cdgh = [_mm_setzero_si128(); N];
    each_lane!(lane => {
        let [a, b, c, d, e, f, g, h] = chains[lane];
        abef[lane] = words([f, e, b, a]);
        cdgh[lane] = words([h, g, d, c]);
    });
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    for at in 0..count {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let mut schedule = [[_mm_setzero_si128(); 4]; N];
        // A macro, not a loop: the indices must be constants for the schedule to live in registers.
        macro_rules! rounds {
            ($($quad:literal)*) => {$(
                let k = words(K[$quad]);
                each_lane!(lane => {
                    let w = schedule[lane];
                    schedule[lane][$quad % 4] = if $quad < 4 {
                        // SAFETY: `at` is below the length of every lane's slice, four quads are
                        // one block, and the load needs no alignment.
                        let quad = unsafe {
                            _mm_loadu_si128(starts[lane].add(at).cast::<__m128i>().add($quad % 4))
                        };
                        _mm_shuffle_epi8(quad, swap)
                    } else {
                        next_words(w[$quad % 4], w[($quad + 1) % 4], w[($quad + 2) % 4], w[($quad + 3) % 4])
                    };
                    let wk = _mm_add_epi32(schedule[lane][$quad % 4], k);
                    cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], wk);
                    let wk = _mm_shuffle_epi32::<0b00_00_11_10>(wk);
                    abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], wk);
                });
            )*};
        }
        rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        each_lane!(lane => {
            abef[lane] = _mm_add_epi32(abef[lane], abef_before[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], cdgh_before[lane]);
        });
    }
    each_lane!(lane => {
        let ([f, e, b, a], [h, g, d, c]) = (split(abef[lane]), split(cdgh[lane]));
        chains[lane] = [a, b, c, d, e, f, g, h];
    });
}

/// Four words as a register, the first lowest.
#[inline]
#[target_feature(enable = "avx")]
fn words([a, b, c, d]: [u32; 4]) -> __m128i {
    _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
}

/// The four words of a register, the lowest first.
#[inline]
#[target_feature(enable = "avx")]
fn split(words: __m128i) -> [u32; 4] {
    [
        _mm_extract_epi32::<0>(words).cast_unsigned(),
        _mm_extract_epi32::<1>(words).cast_unsigned(),
        _mm_extract_epi32::<2>(words).cast_unsigned(),
        _mm_extract_epi32::<3>(words).cast_unsigned(),
    ]
}

/// The four schedule words that follow these sixteen (FIPS 180-4, section 6.2.2, step 1).
#[inline]
#[target_feature(enable = "sha,avx")]
fn next_words(w0: __m128i, w1: __m128i, w2: __m128i, w3: __m128i) -> __m128i {
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
    _mm_sha256msg2_epu32(sum, w3)
}
