//! What happens to a disk: a base and deltas, each of some dialect, and what a guest does to each while it is the top.
//! All numbers are sectors unless a name says otherwise.

use crate::rng::Rng;

/// A chain, the base first.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Its `createType`.
    pub(crate) form: &'static str,
    /// Whether the descriptor lies in the one extent.
    pub(crate) embedded: bool,
    pub(crate) extents: Vec<Extent>,
    pub(crate) writes: Vec<Write>,
    /// The seed of where things lie in its files.
    pub(crate) layout: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) len: usize,
    pub(crate) kind: Kind,
}

/// How an extent holds its part of the disk. `entries` are those of a grain table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `shared`: with the other flat extents of the layer in one file.
    Flat {
        shared: bool,
    },
    Zero,
    /// `damaged`: the first of the two directories cannot be used.
    Hosted {
        grain: usize,
        entries: usize,
        two: bool,
        zeroed: bool,
        damaged: bool,
    },
    Cowd {
        grain: usize,
    },
    /// `table`: its sectors, of 64 entries each.
    SeSparse {
        grain: usize,
        table: usize,
    },
    /// `in_front`: tables and directory lie before the grains, which need no order then.
    Stream {
        grain: usize,
        entries: usize,
        in_front: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// Bytes that follow from a seed.
    Data(u64),
    Zero,
    Unmap,
}

impl Kind {
    /// The sectors of a grain, if there are grains.
    pub(crate) fn grain(self) -> Option<usize> {
        match self {
            Self::Flat { .. } | Self::Zero => None,
            Self::Hosted { grain, .. } | Self::Cowd { grain } => Some(grain),
            Self::SeSparse { grain, .. } | Self::Stream { grain, .. } => Some(grain),
        }
    }

    /// Whether a grain can be marked as zeros.
    pub(crate) fn marks_zeros(self) -> bool {
        matches!(self, Self::Hosted { zeroed: true, .. } | Self::SeSparse { .. })
    }

    fn random(rng: &mut Rng, number: usize) -> Self {
        let entries = rng.pick(&[512, 512, 4, 7, 16, 33]);
        match number {
            0 => Self::Flat { shared: rng.one_in(2) },
            1 => Self::Zero,
            2 => {
                let (grain, two) = (rng.pick(&[8, 8, 16, 32, 64, 128]), rng.one_in(2));
                Self::Hosted { grain, entries, two, zeroed: rng.one_in(2), damaged: two && rng.one_in(4) }
            }
            3 => Self::Cowd { grain: rng.pick(&[1, 1, 1, 2, 8, 16, 128]) },
            4 => Self::SeSparse { grain: rng.pick(&[8, 8, 8, 16, 32, 64, 128]), table: rng.pick(&[1, 1, 2, 64]) },
            _ => Self::Stream { grain: rng.pick(&[8, 16, 32, 128, 128]), entries, in_front: rng.one_in(3) },
        }
    }
}

impl Layer {
    /// The sectors of its disk.
    pub(crate) fn len(&self) -> usize {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Where its extents begin.
    pub(crate) fn starts(&self) -> impl Iterator<Item = usize> {
        self.extents.iter().scan(0, |end, extent| Some(std::mem::replace(end, *end + extent.len)))
    }

    fn random(rng: &mut Rng, len: usize, base: bool) -> Self {
        // A plain flat disk hides all below, so only a base is one.
        let form = rng.below(if base { 7 } else { 6 });
        let (form, most, kind, alone) = match form {
            0 => ("monolithicSparse", 1, Some(2), true),
            1 => ("twoGbMaxExtentSparse", 4, Some(2), false),
            2 => ("vmfsSparse", 2, Some(3), false),
            3 => ("seSparse", 2, Some(4), false),
            4 => ("streamOptimized", 1, Some(5), true),
            5 => ("custom", 5, None, false),
            _ => (rng.pick(&["monolithicFlat", "twoGbMaxExtentFlat", "vmfs"]), 3, Some(0), false),
        };
        let mut cuts: Vec<usize> = (1..rng.within(1, most)).map(|_| rng.within(1, len - 1)).collect();
        cuts.extend([0, len]);
        cuts.sort_unstable();
        cuts.dedup();
        let extents = cuts.windows(2).map(|cut| {
            let number = kind.unwrap_or_else(|| rng.below(6));
            Extent { len: cut[1] - cut[0], kind: Kind::random(rng, number) }
        });
        let extents: Vec<Extent> = extents.collect();
        let count = if base { rng.within(1, 12) } else { rng.below(10) };
        let writes = (0..count).map(|_| Write::random(rng, len)).collect();
        Self { form, embedded: alone && !rng.one_in(4), extents, writes, layout: rng.next() }
    }
}

impl Write {
    fn random(rng: &mut Rng, len: usize) -> Self {
        let what = match rng.below(5) {
            0 => What::Zero,
            1 => What::Unmap,
            _ => What::Data(rng.next()),
        };
        // Only whole grains can be marked: such writes are aligned more often than those of data.
        let step = match what {
            What::Data(_) => rng.pick(&[1, 1, 1, 8]),
            _ => rng.pick(&[1, 8, 8, 16, 128]),
        };
        let most = rng.pick(&[1, 4, 4, 40, 40, 200, len]);
        let start = if rng.one_in(8) { len - rng.within(1, most.min(len)) } else { rng.below(len) / step * step };
        let end = start + rng.within(1, most).next_multiple_of(step);
        Self { start, len: if rng.one_in(8) { len } else { end.min(len) } - start, what }
    }
}

impl History {
    /// A base and three deltas of 32 to 512 KiB. Some grow; the top may shrink too.
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let spread = 1 << rng.within(6, 10);
        let mut len = (64 + rng.below(spread)).min(1024);
        let mut layers: Vec<Layer> = Vec::new();
        for number in 0..4 {
            if number > 0 && rng.one_in(8) {
                len = (len + rng.within(1, 200)).min(1024);
            }
            if number > 0 && rng.one_in(30) {
                len = rng.within(64, len);
            }
            layers.push(Layer::random(&mut rng, len, number == 0));
        }
        Self { layers }
    }

    /// The same with one thing less, in every way there is: without its top, or without one write.
    pub(crate) fn smaller(&self) -> impl Iterator<Item = Self> {
        let top = self.layers.len() - 1;
        let shorter = (top > 0).then(|| Self { layers: self.layers[..top].to_vec() });
        let places = self.layers.iter().enumerate().flat_map(|(layer, l)| (0..l.writes.len()).map(move |w| (layer, w)));
        shorter.into_iter().chain(places.map(|(layer, write)| {
            let mut less = self.clone();
            less.layers[layer].writes.remove(write);
            less
        }))
    }
}
