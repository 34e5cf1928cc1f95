//! Where the parts of a disk are stored, in the field names of `qemu-img map --output=json`.

use blockdev::{ByteOffset, ExtentKind};
use serde::Serialize;

use super::source::Source;
use crate::error::Result;
use crate::transport::from_read;

/// A run of a disk that is of one kind and in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// The first byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// The disk of the chain that decides; 0 is the one that was named.
    pub depth: usize,
    /// Some disk of the chain has something to say about it.
    pub present: bool,
    /// It is known to read as zeros.
    pub zero: bool,
    /// Bytes are stored for it.
    pub data: bool,
    /// They are compressed.
    pub compressed: bool,
    /// Where in the file, if they lie there as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The file. qemu-img has it in its other form of output only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

impl MapEntry {
    /// Takes the next run in, if it goes on where this one ends.
    fn join(&mut self, next: &Self) -> bool {
        let same = (self.depth, self.present, self.zero, self.data, self.compressed)
            == (next.depth, next.present, next.zero, next.data, next.compressed);
        let follows = match (self.offset, next.offset) {
            (Some(offset), Some(next)) => offset + self.length == next,
            (None, None) => true,
            _ => false,
        };
        let joins = same && follows && self.filename == next.filename;
        if joins {
            self.length += next.length;
        }
        joins
    }
}

/// Tells all runs of a disk to `tell`, in order, as few as there are.
///
/// # Errors
/// The tables cannot be read, or those of `tell`.
pub fn map(source: &Source, mut tell: impl FnMut(&MapEntry) -> Result<()>) -> Result<()> {
    let (mut at, size) = (0, source.size().0);
    let mut last: Option<MapEntry> = None;
    while at < size {
        let next = entry_at(source, at)?;
        at += next.length;
        if last.as_mut().is_some_and(|run| run.join(&next)) {
            continue;
        }
        if let Some(run) = last.replace(next) {
            tell(&run)?;
        }
    }
    last.as_ref().map_or(Ok(()), tell)
}

fn entry_at(source: &Source, at: u64) -> Result<MapEntry> {
    let what = || format!("cannot read the tables of {}", source.path.display());
    let Some(image) = source.image() else {
        let extent = source.disk().extent_at(ByteOffset(at)).map_err(|e| from_read(e, &what()))?;
        let data = extent.kind == ExtentKind::Data;
        return Ok(MapEntry {
            start: at,
            length: extent.len.0,
            depth: 0,
            present: true,
            zero: !data,
            data,
            compressed: false,
            offset: Some(at),
            filename: Some(source.path.display().to_string()),
        });
    };
    let placement = image.placement_at(ByteOffset(at)).map_err(|e| from_read(e, &what()))?;
    let data = placement.extent.kind == ExtentKind::Data;
    let stored = placement.stored;
    Ok(MapEntry {
        start: at,
        length: placement.extent.len.0,
        depth: placement.depth,
        present: stored.is_some() || placement.extent.kind == ExtentKind::Zero,
        zero: !data,
        data,
        compressed: stored.is_some_and(|stored| stored.compressed),
        offset: stored.filter(|stored| !stored.compressed).map(|stored| stored.offset.0),
        filename: stored.map(|stored| source.path_of(placement.depth, stored.file).display().to_string()),
    })
}
