//! A stream, marker by marker, from the first grain to its end.

use blockdev::{ByteLen, ByteOffset, SECTOR_SIZE};

use super::{CheckReport, Problem};
use crate::convert::{div_rem, round_up, sectors_to_bytes};
use crate::sparse::{GrainMap, GrainRun, MARKER_LEN, Marker, RawMarker, most_packed};

/// Walks along the markers. Grains that a table names were judged with the table, the first of them is at byte `first`; what
/// no table names is told here.
pub(super) fn check(map: &GrainMap, first: u64, report: &mut CheckReport) {
    let mut walk = Walk { map, leaked: 0, leaked_len: 0 };
    let size = map.file().size().0;
    // Some writers leave `overHead` out.
    let over_head = if map.grains().grain_area.0 == 0 { first } else { map.grains().grain_area.0 };
    let [(_, header), (_, descriptor)] = map.grains().reserved;
    let mut at = over_head.max(header).max(round_up(descriptor, SECTOR_SIZE));
    while at < size {
        match walk.step(at, report) {
            Some(next) => at = next,
            None => break,
        }
    }
    if at > size {
        report.add(map.name(), None, Problem::Marker { found: "the end of the file" });
    }
    if walk.leaked > 0 {
        let problem = Problem::Leaked { grains: walk.leaked, len: ByteLen(walk.leaked_len) };
        report.add(map.name(), None, problem);
    }
}

struct Walk<'a> {
    map: &'a GrainMap,
    leaked: u64,
    leaked_len: u64,
}

impl Walk<'_> {
    /// Looks at what is at byte `at`; answers where the next thing begins, or `None` at the end.
    fn step(&mut self, at: u64, report: &mut CheckReport) -> Option<u64> {
        let mut bytes = [0; 512];
        let name = self.map.name();
        if self.map.file().read_exact_at(ByteOffset(at), &mut bytes).is_err() {
            report.add(name, Some(at), Problem::Marker { found: "less than a sector" });
            return None;
        }
        let raw: RawMarker = zerocopy::transmute!(bytes);
        if raw.size.get() > 0 {
            return self.grain(at, raw.value.get(), raw.size.get().into(), report);
        }
        let behind = at.saturating_add(SECTOR_SIZE);
        match Marker::from_number(raw.kind.get()) {
            Some(Marker::EndOfStream) => {
                let left = self.map.file().size().0.saturating_sub(behind);
                // Writers that put the directory in front may fill the last grain up.
                if left >= self.map.grains().grain_len {
                    report.add(name, Some(behind), Problem::BehindEnd { len: ByteLen(left) });
                }
                None
            }
            Some(_) => Some(behind.saturating_add(sectors_to_bytes(raw.value.get()))),
            None => {
                report.add(name, Some(at), Problem::Marker { found: "something unknown" });
                None
            }
        }
    }

    fn grain(&mut self, at: u64, lba: u64, size: u64, report: &mut CheckReport) -> Option<u64> {
        let grains = self.map.grains();
        let len = size.saturating_add(MARKER_LEN);
        let (number, inside) = div_rem(sectors_to_bytes(lba), grains.grain_len);
        if inside != 0 || number >= grains.count() || len > most_packed(grains.grain_len) {
            report.add(self.map.name(), Some(at), Problem::Marker { found: "the marker of a grain that cannot be" });
            return None; // where the next one begins is not known
        }
        let len = round_up(len, SECTOR_SIZE);
        let named = self.map.run_at(grains.until(number), 1);
        if !matches!(named, Ok(GrainRun::Packed { grain, .. }) if grain.start() == at) {
            self.leaked = self.leaked.saturating_add(1);
            self.leaked_len = self.leaked_len.saturating_add(len);
        }
        Some(at.saturating_add(len))
    }
}
