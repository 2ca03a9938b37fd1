//! SHA-256 (FIPS 180-4) as a resumable state, and several states fed at once.
//!
//! One stream of SHA-256 is bound by the *latency* of the processor's SHA instructions: each needs
//! the result of the one before, so the unit stands idle for most of the time. Streams don't depend on
//! each other, so a kernel that interleaves the rounds of several ("lanes") fills the gaps. On an AMD
//! EPYC with SHA-NI a core needs 0.59 s/GiB with one lane, 0.38 with two, 0.34 with three and 0.31 with
//! four; more lanes gain little, as the message schedules then no longer fit the registers.
//!
//! [`Sha256State`] is the single path and owns the padding; [`update_lanes`] is an optimisation of it
//! with equal results. Where the processor has no SHA instructions both are the `sha2` crate.

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
mod sha_ni;

/// Bytes in a message block (FIPS 180-4, section 5.2.1).
const BLOCK: usize = 64;
/// Where the 64-bit message length starts in the last padded block (FIPS 180-4, section 5.1.1).
const LENGTH_AT: usize = BLOCK - 8;
/// The most streams that the interleaved kernel takes at once.
const MAX_LANES: usize = 4;
/// Blocks that lanes advance together before the longest streams are picked anew: small enough that
/// streams of different lengths end at about the same time, large enough (16 KiB) that picking is free.
const STEP: usize = 256;

type Block = [u8; BLOCK];
/// A chaining value, H(i) of FIPS 180-4.
type Chain = [u32; 8];

/// The initial chaining value (FIPS 180-4, section 5.3.3).
const INITIAL: Chain =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A SHA-256 computation that may be fed in pieces, kept, cloned and gone on with. 112 bytes, no heap.
#[derive(Clone)]
pub struct Sha256State {
    chain: Chain,
    /// The bytes after the last whole block; the first `len % BLOCK` of them count.
    tail: Block,
    /// Bytes fed so far.
    len: u64,
}

impl Default for Sha256State {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Sha256State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sha256State").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Sha256State {
    /// The state of the empty message.
    #[must_use]
    pub const fn new() -> Self {
        Self { chain: INITIAL, tail: [0; BLOCK], len: 0 }
    }

    /// Bytes fed so far: where the next byte belongs in the stream.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was fed yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Feeds `data`, the bytes that follow those fed so far.
    pub fn update(&mut self, data: &[u8]) {
        let (blocks, rest) = self.complete_tail(data).as_chunks::<BLOCK>();
        if !blocks.is_empty() {
            compress256(&mut self.chain, blocks);
            self.advance(blocks.len());
        }
        self.complete_tail(rest);
    }

    /// The digest of everything fed.
    #[must_use]
    pub fn finish(mut self) -> [u8; 32] {
        let used = self.used();
        self.tail[used..].fill(0);
        self.tail[used] = 0x80;
        if used >= LENGTH_AT {
            compress256(&mut self.chain, &[self.tail]);
            self.tail = [0; BLOCK];
        }
        let bits = self.len.wrapping_mul(8);
        self.tail[LENGTH_AT..].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut self.chain, &[self.tail]);

        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.chain) {
            *bytes = word.to_be_bytes();
        }
        digest
    }

    /// Bytes of `tail` that count.
    const fn used(&self) -> usize {
        (self.len % BLOCK as u64) as usize
    }

    /// Notes that `blocks` whole blocks were compressed into `chain`.
    const fn advance(&mut self, blocks: usize) {
        self.len += (blocks * BLOCK) as u64;
    }

    /// Moves bytes from the front of `data` into a tail that waits for some, or that `data` can't
    /// fill, and returns the others. Afterwards the tail is empty or what is returned is.
    fn complete_tail<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let used = self.used();
        if used == 0 && data.len() >= BLOCK {
            return data;
        }
        let (taken, rest) = data.split_at(data.len().min(BLOCK - used));
        self.tail[used..used + taken.len()].copy_from_slice(taken);
        self.len += taken.len() as u64;
        if used + taken.len() == BLOCK {
            compress256(&mut self.chain, &[self.tail]);
        }
        rest
    }
}

/// How many streams at once pay off in [`update_lanes`] on this processor: 4 with SHA-NI, else 1.
/// More or fewer are right too, only not faster.
#[must_use]
pub fn lanes() -> usize {
    match Kernel::detect() {
        Kernel::Single => 1,
        #[cfg(target_arch = "x86_64")]
        Kernel::ShaNi(_) => MAX_LANES,
    }
}

/// Feeds each stream its own data. Equal to calling [`Sha256State::update`] on each, in any order, but
/// interleaved where the processor gains by it. Any number of streams and any lengths will do; the gain
/// is largest for [`lanes`] streams or more, of at least some KiB each.
///
/// The slices are used as cursors: on return all of them are empty.
pub fn update_lanes(streams: &mut [(&mut Sha256State, &[u8])]) {
    // Unoptimised, every intrinsic is a call, and the kernel fifty times slower than the optimised crate.
    let kernel = if cfg!(debug_assertions) { Kernel::Single } else { Kernel::detect() };
    update_with(kernel, streams);
}

/// The ways to compress blocks of several streams.
#[derive(Clone, Copy)]
enum Kernel {
    /// One stream after the other.
    Single,
    /// Two to [`MAX_LANES`] streams interleaved.
    #[cfg(target_arch = "x86_64")]
    ShaNi(sha_ni::Available),
}

impl Kernel {
    /// The best one that this processor has. The standard library remembers what it detects, so this
    /// costs a load and a test.
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(available) = sha_ni::Available::detect() {
            return Self::ShaNi(available);
        }
        Self::Single
    }
}

/// [`update_lanes`] with a kernel of the caller's choice, so that tests can force the fallback.
fn update_with(kernel: Kernel, streams: &mut [(&mut Sha256State, &[u8])]) {
    match kernel {
        Kernel::Single => {}
        #[cfg(target_arch = "x86_64")]
        Kernel::ShaNi(available) => {
            for (state, data) in streams.iter_mut() {
                *data = state.complete_tail(data);
            }
            loop {
                let (picked, count) = longest(streams);
                match count {
                    4 => step::<4>(available, streams, picked),
                    3 => step::<3>(available, streams, picked),
                    2 => step::<2>(available, streams, picked),
                    _ => break,
                }
            }
        }
    }
    for (state, data) in streams.iter_mut() {
        state.update(std::mem::take(data));
    }
}

/// The indices of the streams with the most data left, longest first, and how many they are. Streams
/// with less than a block don't count. Picking the longest keeps all lanes busy until the end.
#[cfg(target_arch = "x86_64")]
fn longest(streams: &[(&mut Sha256State, &[u8])]) -> ([usize; MAX_LANES], usize) {
    let mut picked = [0; MAX_LANES];
    let mut count = 0;
    for (index, (_, data)) in streams.iter().enumerate() {
        if data.len() < BLOCK {
            continue;
        }
        let longer = |&&other: &&usize| streams[other].1.len() >= data.len();
        let rank = picked[..count].iter().take_while(longer).count();
        if rank < MAX_LANES {
            count = MAX_LANES.min(count + 1);
            picked[rank..count].rotate_right(1);
            picked[rank] = index;
        }
    }
    (picked, count)
}

/// Compresses as many blocks as the first `N` picked streams all have, at most [`STEP`].
#[cfg(target_arch = "x86_64")]
fn step<const N: usize>(
    available: sha_ni::Available,
    streams: &mut [(&mut Sha256State, &[u8])],
    picked: [usize; MAX_LANES],
) {
    let mut chains = [INITIAL; N];
    let mut blocks: [&[Block]; N] = [&[]; N];
    for ((chain, blocks), &index) in chains.iter_mut().zip(&mut blocks).zip(&picked) {
        *chain = streams[index].0.chain;
        *blocks = streams[index].1.as_chunks().0;
    }
    let count = blocks.iter().map(|blocks| blocks.len()).fold(STEP, usize::min);
    available.compress(&mut chains, blocks.map(|blocks| &blocks[..count]));
    for (chain, &index) in chains.into_iter().zip(&picked) {
        let (state, data) = &mut streams[index];
        state.chain = chain;
        state.advance(count);
        *data = &data[count * BLOCK..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest;

    /// The kernels that this machine can run; the fallback is always among them.
    fn kernels() -> Vec<Kernel> {
        let mut kernels = vec![Kernel::Single];
        if !matches!(Kernel::detect(), Kernel::Single) {
            kernels.push(Kernel::detect());
        }
        kernels
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn reference(data: &[u8]) -> [u8; 32] {
        sha2::Sha256::digest(data).into()
    }

    /// Bytes that differ between streams and don't repeat with the block.
    fn pattern(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 7) ^ seed.wrapping_mul(101)) as u8).collect()
    }

    /// Feeds each stream its rounds, all streams of a round at once, and compares with the reference.
    fn check(kernel: Kernel, streams: &[Vec<Vec<u8>>]) {
        let rounds = streams.iter().map(Vec::len).max().unwrap_or(0);
        let mut states = vec![Sha256State::new(); streams.len()];
        for round in 0..rounds {
            let pieces = streams.iter().map(|pieces| pieces.get(round).map_or(&[][..], Vec::as_slice));
            let mut feed: Vec<_> = states.iter_mut().zip(pieces).collect();
            update_with(kernel, &mut feed);
            assert!(feed.iter().all(|(_, rest)| rest.is_empty()), "data was left over");
        }
        for (state, pieces) in states.into_iter().zip(streams) {
            let whole = pieces.concat();
            assert_eq!(state.len(), whole.len() as u64);
            assert_eq!(state.is_empty(), whole.is_empty());
            let splits: Vec<_> = pieces.iter().map(Vec::len).collect();
            assert_eq!(hex(&state.finish()), hex(&reference(&whole)), "splits {splits:?}");
        }
    }

    /// NIST's examples (FIPS 180-2 appendix B and the CAVP short messages).
    #[test]
    fn published_vectors() {
        let million = vec![b'a'; 1_000_000];
        let vectors: [(&[u8], &str); 7] = [
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"\xd3", "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"),
            (b"\x11\xaf", "5ca7133fa735326081558ac312c620eeca9970d1e70a4b95533d956f072d1f98"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
                "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
            ),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ];
        for kernel in kernels() {
            let mut states = vec![Sha256State::new(); vectors.len()];
            let mut feed: Vec<_> =
                states.iter_mut().zip(vectors).map(|(state, (data, _))| (state, data)).collect();
            update_with(kernel, &mut feed);
            for (state, (data, digest)) in states.into_iter().zip(vectors) {
                assert_eq!(hex(&state.finish()), digest, "message of {} bytes", data.len());
            }
        }
        for (data, digest) in vectors {
            let mut state = Sha256State::default();
            state.update(data);
            assert_eq!(hex(&state.finish()), digest, "message of {} bytes", data.len());
        }
    }

    #[test]
    fn every_length_around_the_padding() {
        for len in 0..=3 * BLOCK {
            let data = pattern(len, len);
            let mut state = Sha256State::new();
            state.update(&data);
            assert_eq!(state.finish(), reference(&data), "{len} bytes");
        }
    }

    #[test]
    fn each_number_of_lanes() {
        for kernel in kernels() {
            for streams in 0..=2 * MAX_LANES + 1 {
                for len in [BLOCK - 1, BLOCK, 5 * BLOCK + 7, (STEP + 1) * BLOCK + 1] {
                    let data: Vec<_> = (0..streams).map(|seed| vec![pattern(seed, len)]).collect();
                    check(kernel, &data);
                }
            }
        }
    }

    #[test]
    fn a_clone_goes_its_own_way() {
        let mut first = Sha256State::new();
        first.update(b"shared, ");
        let mut second = first.clone();
        first.update(b"one");
        second.update(b"two");
        assert_eq!(first.finish(), reference(b"shared, one"));
        assert_eq!(second.finish(), reference(b"shared, two"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
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
            let (picked, count) = longest(&feed);
            assert_eq!(&picked[..count], want, "{lengths:?}");
        }
    }

    #[test]
    fn debug_shows_no_content() {
        let mut state = Sha256State::new();
        state.update(b"secret");
        assert_eq!(format!("{state:?}"), "Sha256State { len: 6, .. }");
    }

    /// A length near a multiple of the block, often zero, sometimes past a step.
    fn length() -> impl Strategy<Value = usize> {
        let near = |blocks: std::ops::Range<usize>| {
            (blocks, 0..5_usize).prop_map(|(blocks, off)| (blocks * BLOCK + off).saturating_sub(2))
        };
        prop_oneof![4 => near(0..6), 2 => 0..1000_usize, 1 => near(STEP - 1..STEP + 2)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn lanes_equal_the_sha2_crate(
            lengths in prop::collection::vec(prop::collection::vec(length(), 0..4), 0..=8),
            seed in any::<u8>(),
        ) {
            let streams: Vec<Vec<Vec<u8>>> = lengths.iter().enumerate().map(|(stream, pieces)| {
                pieces.iter().enumerate().map(|(piece, &len)| pattern(usize::from(seed) + 7 * stream + piece, len)).collect()
            }).collect();
            for kernel in kernels() {
                check(kernel, &streams);
            }
        }

        #[test]
        fn pieces_equal_the_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..12)) {
            let mut state = Sha256State::new();
            for piece in &pieces {
                state.update(piece);
            }
            prop_assert_eq!(state.finish(), reference(&pieces.concat()));
        }
    }
}
