//! Which parts of a disk were ever written: the `*` query of changed block tracking.

use crate::client::{Client, method, returnval};
use crate::disks::DiskConfig;
use crate::error::Error;
use crate::xml::{Element, Moref};

/// An answer describes about 2000 areas, so a disk of the largest size (62 TiB) in 64 KiB grains needs half a million
/// answers at worst; this is far above any real one and bounds a server that does not get on.
const MAX_ANSWERS: usize = 100_000;

/// 128 MiB of list. A disk this fragmented is better read whole.
const MAX_AREAS: usize = 8 << 20;

impl Client {
    /// The areas of `disk` in `snapshot` that are in use, as `(start, length)` in bytes: sorted, merged, inside the disk.
    /// On servers that do not know it is one area, or a fault.
    ///
    /// Trust this only for skipping reads, and only if tracking was on before the data was written.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the answers do not cover the disk, else what the server says.
    pub async fn allocated_areas(
        &self,
        vm: &Moref,
        snapshot: &Moref,
        disk: &DiskConfig,
    ) -> Result<Vec<(u64, u64)>, Error> {
        let mut areas = Vec::new();
        let mut start = 0;
        for _ in 0..MAX_ANSWERS {
            // Asking at or behind the end is InvalidArgument.
            if start >= disk.capacity {
                return Ok(merge(areas));
            }
            let call = method("QueryChangedDiskAreas", vm)
                .with(Element::reference("snapshot", snapshot))
                .with(Element::leaf("deviceKey", disk.key.to_string()))
                .with(Element::leaf("startOffset", start.to_string()))
                .with(Element::leaf("changeId", "*"));
            let answer = returnval(self.read(&call).await?)?;
            start = take(&answer, start, disk.capacity, &mut areas)?;
            if areas.len() > MAX_AREAS {
                return Err(bad(format!("at most {MAX_AREAS} areas"), "more"));
            }
        }
        Err(bad(format!("at most {MAX_ANSWERS} answers"), "more"))
    }
}

fn bad(expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::protocol("QueryChangedDiskAreas", expected, found)
}

/// Adds the areas of one answer, returns where the next one begins.
fn take(answer: &Element, asked: u64, capacity: u64, areas: &mut Vec<(u64, u64)>) -> Result<u64, Error> {
    let number = |element: &Element, name: &str| -> Result<u64, Error> {
        let text = element.text_of(name).unwrap_or_default();
        text.trim().parse().map_err(|_| bad(format!("a number of bytes as {name}"), text))
    };
    let (start, length) = (number(answer, "startOffset")?, number(answer, "length")?);
    if start != asked {
        return Err(bad(format!("an answer from byte {asked}"), format!("one from {start}")));
    }
    // An answer about nothing would end the list early: that is lost data, not progress.
    let next = start.checked_add(length).filter(|next| *next > asked);
    let next = next.ok_or_else(|| bad("an answer about some bytes", format!("one about {length}")))?;
    for area in answer.children_named("changedArea") {
        let (from, length) = (number(area, "start")?, number(area, "length")?);
        let inside = length.min(capacity.saturating_sub(from));
        if inside > 0 {
            areas.push((from, inside));
        }
    }
    Ok(next)
}

/// Sorts areas and joins those that touch or overlap.
fn merge(mut areas: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    areas.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, length) in areas {
        match merged.last_mut() {
            Some((first, size)) if start <= first.saturating_add(*size) => {
                *size = (*size).max(start.saturating_add(length).saturating_sub(*first));
            }
            _ => merged.push((start, length)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(start: u64, length: i64, areas: &[(u64, u64)]) -> Element {
        let area = |&(start, length): &(u64, u64)| {
            Element::new("changedArea")
                .with(Element::leaf("start", start.to_string()))
                .with(Element::leaf("length", length.to_string()))
        };
        Element::new("returnval")
            .with(Element::leaf("startOffset", start.to_string()))
            .with(Element::leaf("length", length.to_string()))
            .with_all(areas.iter().map(area))
    }

    #[test]
    fn areas_are_sorted_merged_and_clipped() {
        let mut areas = Vec::new();
        let next = take(&answer(0, 100, &[(90, 50), (10, 5), (15, 5), (12, 2), (200, 5), (30, 0)]), 0, 100, &mut areas);
        assert_eq!(next.unwrap(), 100);
        assert_eq!(merge(areas), [(10, 10), (90, 10)]);
        assert_eq!(merge(vec![]), []);
    }

    #[test]
    fn answers_that_do_not_get_on_are_errors() {
        for bad in [answer(0, 0, &[]), answer(5, 10, &[]), answer(0, -1, &[]), Element::new("returnval")] {
            assert!(matches!(take(&bad, 0, 100, &mut Vec::new()), Err(Error::Protocol { .. })), "{bad:?}");
        }
        let far = answer(u64::MAX - 5, 10, &[]);
        assert!(take(&far, u64::MAX - 5, u64::MAX, &mut Vec::new()).is_err());
    }
}
