//! The value of an attribute, whole, wherever its pieces lie.
//!
//! Three things go wrong silently in simpler readers, so they are all here: a value in several pieces (attribute list), bytes behind
//! the initialised size (zeros, whatever lies in the clusters), and compression units.

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};

use super::device::Device;
use super::record::{Attribute, Body, flag};
use super::runs::Runs;
use crate::FsError;
use crate::unpack::lznt1;

/// What of a file's attribute is read, in one of its forms.
#[derive(Debug)]
pub(super) struct Stream {
    /// The name of the thing, for errors.
    what: String,
    flags: u16,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Resident(Vec<u8>),
    Clusters(Layout),
}

#[derive(Debug)]
struct Layout {
    runs: Runs,
    size: u64,
    initialized: u64,
    /// What the clusters take, holes included.
    mapped: u64,
    /// What the value takes on the volume.
    allocated: u64,
    /// Log2 of the bytes per compression unit, for compressed values.
    unit: Option<u32>,
}

/// A compression unit is 16 clusters of at most 4 KiB, says Windows; we take units of up to 16 clusters of 64 KiB.
const MAX_UNIT: u32 = 20;

/// Puts a stream together from its pieces, in the order of their clusters.
pub(super) struct Assembly<'a> {
    device: &'a Device,
    what: String,
    stream: Option<Stream>,
    /// Where the last piece ended.
    reached: u64,
}

impl<'a> Assembly<'a> {
    pub(super) const fn new(device: &'a Device, what: String) -> Self {
        Self { device, what, stream: None, reached: 0 }
    }

    /// The next piece.
    pub(super) fn add(&mut self, piece: &Attribute<'_>) -> Result<(), FsError> {
        let clusters = match piece.body {
            Body::Resident(value) if self.stream.is_none() => {
                let content = Content::Resident(value.to_vec());
                self.stream = Some(Stream { what: self.what.clone(), flags: piece.flags, content });
                return Ok(());
            }
            Body::Resident(_) => return Err(self.twice()),
            Body::Clusters(clusters) => clusters,
        };
        if self.stream.is_none() {
            if clusters.lowest != 0 {
                let error = super::runs::RunsError::Gap { expected: 0, found: clusters.lowest };
                return Err(error.of(self.what.clone()));
            }
            let layout = Layout {
                runs: Runs::default(),
                size: clusters.size,
                initialized: clusters.initialized,
                mapped: clusters.allocated,
                allocated: clusters.compressed.unwrap_or(clusters.allocated),
                unit: self.unit(piece.flags, clusters.unit)?,
            };
            let content = Content::Clusters(layout);
            self.stream = Some(Stream { what: self.what.clone(), flags: piece.flags, content });
        }
        let Some(Stream { content: Content::Clusters(layout), .. }) = &mut self.stream else {
            return Err(self.twice());
        };
        layout
            .runs
            .add(clusters.pairs, clusters.lowest, clusters.end, self.device.clusters)
            .map_err(|error| error.of(self.what.clone()))?;
        self.reached = clusters.end;
        Ok(())
    }

    fn twice(&self) -> FsError {
        FsError::Corrupt { what: self.what.clone(), field: "number of values", found: "2".into(), expected: "1" }
    }

    /// Log2 of the unit's bytes, if the value is compressed in a way that is known.
    fn unit(&self, flags: u16, clusters: u8) -> Result<Option<u32>, FsError> {
        match flags & flag::METHOD {
            0 => return Ok(None),
            flag::LZNT1 => {}
            _ => {
                let why = "it is compressed by a method that is not known";
                return Err(FsError::Unsupported { what: self.what.clone(), why });
            }
        }
        let log = self.device.log.saturating_add(clusters.into());
        if clusters == 0 || log > MAX_UNIT {
            return Err(FsError::Corrupt {
                what: self.what.clone(),
                field: "compression unit",
                found: format!("2^{clusters} clusters"),
                expected: "several clusters, of at most 1 MiB in all",
            });
        }
        Ok(Some(log))
    }

    /// The stream. Without any piece there is none.
    pub(super) fn finish(self) -> Result<Option<Stream>, FsError> {
        let Some(mut stream) = self.stream else { return Ok(None) };
        if let Content::Clusters(layout) = &mut stream.content {
            layout.runs.shrink();
            let mapped = u128::from(layout.runs.end()).saturating_mul(self.device.cluster.into());
            // `mapped` is at least the size: that was checked with the header.
            if mapped != u128::from(layout.mapped) {
                return Err(FsError::Corrupt {
                    what: self.what,
                    field: "list of runs",
                    found: format!("of {} clusters for {} allocated bytes", layout.runs.end(), layout.mapped),
                    expected: "as long as the allocated size",
                });
            }
            if stream.flags & (flag::METHOD | flag::SPARSE) == 0 && layout.runs.has_hole() {
                return Err(FsError::Corrupt {
                    what: self.what,
                    field: "list of runs",
                    found: "with a hole".into(),
                    expected: "without one, for the value is neither sparse nor compressed",
                });
            }
        }
        Ok(Some(stream))
    }
}

impl Stream {
    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        match &self.content {
            Content::Resident(value) => u64::try_from(value.len()).unwrap_or(u64::MAX),
            Content::Clusters(layout) => layout.size,
        }
    }

    /// What it takes on the volume beside the record.
    pub(super) const fn allocated(&self) -> u64 {
        match &self.content {
            Content::Resident(_) => 0,
            Content::Clusters(layout) => layout.allocated,
        }
    }

    /// How much of it was ever written; the rest reads as zeros.
    pub(super) fn initialized(&self) -> u64 {
        match &self.content {
            Content::Resident(_) => self.len(),
            Content::Clusters(layout) => layout.initialized,
        }
    }

    pub(super) const fn is_encrypted(&self) -> bool {
        self.flags & flag::ENCRYPTED != 0
    }

    /// Whether the value lies in clusters as it is.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(&self.content, Content::Clusters(Layout { unit: None, .. }))
    }

    /// Fills `buf` from byte `at` of the value, which must lie inside it. `disk` is the device's disk, cached or not.
    pub(super) fn read(&self, device: &Device, disk: &dyn ReadAt, at: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let out_of_range = || FsError::Read {
            what: self.what.clone(),
            source: ReadError::OutOfRange { at: ByteOffset(at), len: ByteLen::of(buf), size: ByteLen(self.len()) },
        };
        let end = at.checked_add(ByteLen::of(buf).0).filter(|end| *end <= self.len()).ok_or_else(out_of_range)?;
        let layout = match &self.content {
            Content::Resident(value) => {
                let from = usize::try_from(at).ok().and_then(|from| value.get(from..)).ok_or_else(out_of_range)?;
                buf.copy_from_slice(from.get(..buf.len()).ok_or_else(out_of_range)?);
                return Ok(());
            }
            Content::Clusters(layout) => layout,
        };
        // What was never written reads as zeros, whatever lies in its clusters.
        let written = usize::try_from(layout.initialized.clamp(at, end).saturating_sub(at)).unwrap_or(0);
        let (written, rest) = buf.split_at_mut(written.min(buf.len()));
        rest.fill(0);
        match layout.unit {
            None => self.read_plain(layout, device, disk, at, written),
            Some(unit) => self.read_units(layout, unit, device, disk, at, written),
        }
    }

    fn read_plain(
        &self,
        layout: &Layout,
        device: &Device,
        disk: &dyn ReadAt,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), FsError> {
        device.read_runs(disk, &layout.runs, at, buf).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: ReadError) -> FsError {
        FsError::Read { what: self.what.clone(), source }
    }

    /// Reads a compressed value unit by unit.
    fn read_units(
        &self,
        layout: &Layout,
        unit: u32,
        device: &Device,
        disk: &dyn ReadAt,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), FsError> {
        let unit_len = 1u64 << unit.min(MAX_UNIT);
        let (mut at, mut rest) = (at, buf);
        let mut plain = Vec::new();
        while !rest.is_empty() {
            let number = at >> unit;
            let from = usize::try_from(at & unit_len.saturating_sub(1)).unwrap_or(0); // below 1 MiB
            let whole = usize::try_from(unit_len).unwrap_or(0);
            let take = whole.saturating_sub(from).min(rest.len());
            let (head, tail) = rest.split_at_mut(take);
            match self.unit_form(layout, device, number, unit_len)? {
                Form::Hole => head.fill(0),
                Form::Stored => self.read_plain(layout, device, disk, at, head)?,
                Form::Packed(len) => {
                    plain.resize(whole, 0);
                    self.unpack(layout, device, disk, number.saturating_mul(unit_len), len, &mut plain)?;
                    let piece = plain.get(from..from.saturating_add(take)).unwrap_or_default();
                    head.copy_from_slice(piece);
                }
            }
            rest = tail;
            at = at.saturating_add(u64::try_from(take).unwrap_or(0));
        }
        Ok(())
    }

    /// How a compression unit is stored: by which of its clusters are there. The packed bytes come first, then holes.
    fn unit_form(&self, layout: &Layout, device: &Device, number: u64, unit_len: u64) -> Result<Form, FsError> {
        let clusters = unit_len >> device.log;
        let first = number.saturating_mul(clusters);
        // The last unit may end where the value does.
        let end = first.saturating_add(clusters).min(layout.runs.end());
        let mut there = first;
        for run in layout.runs.from(first).iter().take_while(|run| run.start < end) {
            if run.lcn.is_none() {
                continue;
            }
            if run.start > there {
                let found = format!("data in cluster {} behind a hole", run.start);
                return Err(self.corrupt("compression unit", found, "data, then holes"));
            }
            there = run.end.min(end);
        }
        let len = there.saturating_sub(first);
        Ok(match len {
            0 => Form::Hole,
            len if len == clusters || (there == end && end == layout.runs.end() && self.fits(layout, device)) => {
                Form::Stored
            }
            len => Form::Packed(len.saturating_mul(device.cluster)),
        })
    }

    /// Whether the clusters at the end hold the value as it is: then the last unit is not packed.
    fn fits(&self, layout: &Layout, device: &Device) -> bool {
        layout.runs.end().saturating_mul(device.cluster) >= layout.size && !layout.runs.ends_in_hole()
    }

    fn unpack(
        &self,
        layout: &Layout,
        device: &Device,
        disk: &dyn ReadAt,
        at: u64,
        len: u64,
        plain: &mut [u8],
    ) -> Result<(), FsError> {
        let mut packed = vec![0; usize::try_from(len).unwrap_or(0)]; // less than a unit
        self.read_plain(layout, device, disk, at, &mut packed)?;
        // A unit may end early: the rest is zeros.
        let unpacked = lznt1::decompress(&packed, plain);
        unpacked.map(drop).map_err(|error| error.of(&format!("the unit at byte {at:#x} of {}", self.what)))
    }

    fn corrupt(&self, field: &'static str, found: String, expected: &'static str) -> FsError {
        FsError::Corrupt { what: self.what.clone(), field, found, expected }
    }

    /// The run of data or zeros at byte `at`, which must lie inside.
    pub(super) fn extent_at(&self, device: &Device, at: ByteOffset) -> Extent {
        let (kind, end) = match &self.content {
            Content::Resident(_) => (ExtentKind::Data, self.len()),
            Content::Clusters(layout) if at.0 >= layout.initialized => (ExtentKind::Zero, layout.size),
            Content::Clusters(layout) => {
                let (kind, end) = layout.extent_at(device.log, at.0);
                (kind, end.min(layout.initialized))
            }
        };
        Extent { start: at, len: ByteLen(end.saturating_sub(at.0).max(1)), kind }
    }
}

impl Layout {
    /// What lies at byte `at`, and the first byte behind it. A compression unit of which a part is stored is data.
    fn extent_at(&self, log: u32, at: u64) -> (ExtentKind, u64) {
        let unit = self.unit.unwrap_or(log).min(63);
        let start = at >> unit << unit;
        let next = start.saturating_add(1 << unit);
        let Some(run) = self.runs.from(start >> log).first() else { return (ExtentKind::Data, next) };
        let end = run.end.saturating_mul(1 << log) >> unit << unit;
        match run.lcn {
            None if end > at => (ExtentKind::Hole, end),
            _ => (ExtentKind::Data, end.max(next)),
        }
    }
}

/// How a compression unit is stored.
enum Form {
    /// Not at all: zeros.
    Hole,
    /// As it is.
    Stored,
    /// Packed in so many bytes.
    Packed(u64),
}
