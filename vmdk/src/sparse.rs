//! Extents that store grains behind tables: a grain directory names grain tables, a grain table names grains.
//!
//! ```text
//!   header -> grain directory -> grain table -> grain
//!             one per table      one per grain  8 sectors or more (hosted), 1 or more (ESX)
//! ```
//!
//! Hosted extents and ESX redo logs number sectors of their own file in 32 bits; space-efficient ones have typed entries of
//! 64 bits. [`Entries`] knows both, so one [`GrainMap`] serves all.

mod cache;
mod cowd;
mod entries;
mod grains;
mod hosted;
mod packed;
mod sesparse;

pub(crate) use cache::Caches;
pub(crate) use cowd::read_cowd;
pub(crate) use entries::{Areas, Entries, Entry, ZERO_GRAIN};
pub(crate) use grains::{GrainMap, GrainRun, Grains};
pub(crate) use hosted::{GD_AT_END, HostedHeader, Marker, RawHosted, RawMarker};
pub(crate) use packed::{MARKER_LEN, PackedGrain, most_packed};
pub(crate) use sesparse::read_sesparse;

use blockdev::{ByteLen, ByteOffset, ReadAt};

use crate::VmdkError;

/// `KDMV`: Virtual Disk Format 1.1, section "Hosted Sparse Extents".
pub(crate) const HOSTED_MAGIC: [u8; 4] = *b"KDMV";
/// `COWD`: Virtual Disk Format 1.1, section "ESX Server Sparse Extents".
pub(crate) const COWD_MAGIC: [u8; 4] = *b"COWD";
/// The constant header of a space-efficient sparse extent, 0xcafebabe as 64 bits.
pub(crate) const SESPARSE_MAGIC: [u8; 8] = [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0];

/// The largest grain that is read, in sectors: 32 MiB. Products write 64 KiB (hosted) and 512 bytes to 64 KiB (ESX).
pub(crate) const MAX_GRAIN_SECTORS: u64 = 65536;

/// Reads the first `N` bytes of an extent.
pub(crate) fn read_start<const N: usize>(
    file: &dyn ReadAt,
    name: &str,
    what: &'static str,
) -> Result<[u8; N], VmdkError> {
    read_part(file, name, what, 0)
}

/// Reads `N` bytes from byte `start` of an extent's file.
pub(crate) fn read_part<const N: usize>(
    file: &dyn ReadAt,
    name: &str,
    what: &'static str,
    start: u64,
) -> Result<[u8; N], VmdkError> {
    let mut bytes = [0; N];
    let len = ByteLen::of(&bytes);
    check_inside(file, name, what, start, len.0)?;
    file.read_exact_at(ByteOffset(start), &mut bytes).map_err(VmdkError::read(name))?;
    Ok(bytes)
}

/// Checks that `len` bytes from `start` on lie inside a file.
pub(crate) fn check_inside(
    file: &dyn ReadAt,
    name: &str,
    what: &'static str,
    start: u64,
    len: u64,
) -> Result<(), VmdkError> {
    let size = file.size();
    match start.checked_add(len) {
        Some(end) if end <= size.0 => Ok(()),
        end => Err(VmdkError::Short {
            file: name.to_owned(),
            what,
            start: ByteOffset(start),
            end: ByteOffset(end.unwrap_or(u64::MAX)),
            size,
        }),
    }
}
