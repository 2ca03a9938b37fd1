//! Kernels that compress blocks of several streams, and their detection.

use super::Sha256State;
#[cfg(target_arch = "x86_64")]
use super::{BLOCK, Block, INITIAL, avx2, sha_ni};

/// The maximum number of streams of any kernel.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the lanes of x86 take steps"))]
pub(super) const MAX_LANES: usize = 8;
/// Blocks that lanes advance together before the longest streams are picked again: small enough that streams of different
/// lengths end at about the same time, large enough (16 KiB) that picking costs nothing.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the lanes of x86 take steps"))]
pub(super) const STEP: usize = 256;

/// A kernel. All give the same digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Way);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One stream after the other.
    Single,
    /// Two to four streams interleaved.
    #[cfg(target_arch = "x86_64")]
    ShaNi(sha_ni::ShaNi),
    /// Eight streams, one in each element of a register; with fewer, elements are idle.
    #[cfg(target_arch = "x86_64")]
    Vector(avx2::Avx2),
}

impl Kernel {
    /// One stream after the other with the `sha2` crate, which works on every CPU.
    pub const SINGLE: Self = Self(Way::Single);

    /// The best kernel of this CPU. The standard library caches detection, so that this costs a few loads and tests.
    #[must_use]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(available) = sha_ni::ShaNi::detect() {
            return Self(Way::ShaNi(available));
        } else if let Some(available) = avx2::Avx2::detect() {
            return Self(Way::Vector(available));
        }
        Self::SINGLE
    }

    /// All kernels of this CPU, for tests and benchmarks.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::SINGLE];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx2::Avx2::all().map(|available| Self(Way::Vector(available))));
            all.extend(sha_ni::ShaNi::detect().map(|available| Self(Way::ShaNi(available))));
        }
        all
    }

    /// Its name in benchmarks.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Way::Single => "single",
            #[cfg(target_arch = "x86_64")]
            Way::ShaNi(_) => "sha-ni",
            #[cfg(target_arch = "x86_64")]
            Way::Vector(available) => available.name(),
        }
    }

    /// The number of streams for which it is fastest.
    #[must_use]
    pub fn lanes(self) -> usize {
        match self.0 {
            Way::Single => 1,
            #[cfg(target_arch = "x86_64")]
            Way::ShaNi(_) => sha_ni::LANES,
            #[cfg(target_arch = "x86_64")]
            Way::Vector(_) => avx2::LANES,
        }
    }

    /// Whether it uses the CPU's SHA instructions: one core then hashes what two receive.
    #[must_use]
    pub fn has_sha_instructions(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Way::ShaNi(_) = self.0 {
            return true;
        }
        false
    }

    /// As [`update_lanes`](super::update_lanes), with this kernel.
    pub fn update(self, streams: &mut [(&mut Sha256State, &[u8])]) {
        #[cfg(target_arch = "x86_64")]
        match self.0 {
            Way::Single => {}
            Way::ShaNi(available) => together(streams, sha_ni::LANES, |streams, picked| match *picked {
                [a, b, c, d] => {
                    step(streams, [a, b, c, d], |chains, blocks| available.compress(chains, blocks))
                }
                [a, b, c] => step(streams, [a, b, c], |chains, blocks| available.compress(chains, blocks)),
                [a, b] => step(streams, [a, b], |chains, blocks| available.compress(chains, blocks)),
                _ => false,
            }),
            Way::Vector(available) => together(streams, avx2::LANES, |streams, picked| {
                if picked.len() < available.fewest() {
                    return false;
                }
                // An idle element repeats the work of the first stream; its result is ignored.
                let mut lanes = [picked[0]; avx2::LANES];
                lanes[..picked.len()].copy_from_slice(picked);
                step(streams, lanes, |chains, blocks| available.compress(chains, blocks))
            }),
        }
        for (state, data) in streams.iter_mut() {
            state.update(std::mem::take(data));
        }
    }
}

/// Advances the longest streams, at most `width`, until `step` declines.
#[cfg(target_arch = "x86_64")]
fn together<'s, 'd>(
    streams: &mut [(&'s mut Sha256State, &'d [u8])],
    width: usize,
    step: impl Fn(&mut [(&'s mut Sha256State, &'d [u8])], &[usize]) -> bool,
) {
    for (state, data) in streams.iter_mut() {
        *data = state.complete_tail(data);
    }
    loop {
        let (picked, count) = longest(streams, width);
        if !step(streams, &picked[..count]) {
            return;
        }
    }
}

/// The indices of the `width` streams with the most data left, longest first, and their number. Streams with less than a
/// block do not count. Picking the longest keeps all lanes busy until the end.
#[cfg(target_arch = "x86_64")]
fn longest(streams: &[(&mut Sha256State, &[u8])], width: usize) -> ([usize; MAX_LANES], usize) {
    let mut picked = [0; MAX_LANES];
    let mut count = 0;
    for (index, (_, data)) in streams.iter().enumerate() {
        if data.len() < BLOCK {
            continue;
        }
        let longer = |&&other: &&usize| streams[other].1.len() >= data.len();
        let rank = picked[..count].iter().take_while(longer).count();
        if rank < width {
            count = width.min(count + 1);
            picked[rank..count].rotate_right(1);
            picked[rank] = index;
        }
    }
    (picked, count)
}

/// Compresses as many blocks as all streams in `lanes` have, at most [`STEP`]. A stream that is in several lanes advances
/// once.
#[cfg(target_arch = "x86_64")]
fn step<const N: usize>(
    streams: &mut [(&mut Sha256State, &[u8])],
    lanes: [usize; N],
    compress: impl Fn(&mut [[u32; 8]; N], [&[Block]; N]),
) -> bool {
    let mut chains = [INITIAL; N];
    let mut blocks: [&[Block]; N] = [&[]; N];
    for ((chain, blocks), &index) in chains.iter_mut().zip(&mut blocks).zip(&lanes) {
        *chain = streams[index].0.chain;
        *blocks = streams[index].1.as_chunks().0;
    }
    let count = blocks.iter().map(|blocks| blocks.len()).fold(STEP, usize::min);
    compress(&mut chains, blocks.map(|blocks| &blocks[..count]));
    for (number, (chain, &index)) in chains.into_iter().zip(&lanes).enumerate() {
        if lanes[..number].contains(&index) {
            continue;
        }
        let (state, data) = &mut streams[index];
        state.chain = chain;
        state.advance(count);
        *data = &data[count * BLOCK..];
    }
    true
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_longest_are_picked() {
        let cases: [(&[usize], &[usize]); 6] = [
            (&[], &[]),
            (&[63, 0], &[]),
            (&[64], &[0]),
            (&[64, 128, 63], &[1, 0]),
            (&[100, 400, 200, 300, 500], &[4, 1, 3, 2]),
            (&[900, 800, 700, 600, 65, 1000], &[5, 0, 1, 2]),
        ];
        let zeros = [0; 1000];
        for (lengths, want) in cases {
            let mut states = vec![Sha256State::new(); lengths.len()];
            let feed: Vec<_> =
                states.iter_mut().zip(lengths).map(|(state, &len)| (state, &zeros[..len])).collect();
            let (picked, count) = longest(&feed, 4);
            assert_eq!(&picked[..count], want, "{lengths:?}");
        }
    }
}
