//! Changed block tracking: which parts of a disk were ever written (the `*` query), and which since an earlier point.

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
        self.areas(vm, snapshot, disk, EVERYTHING).await
    }

    /// The areas of `disk` in `snapshot` that were written since `point`, a change id that an earlier snapshot had for the disk: sorted,
    /// merged, inside the disk. More may be named than changed, never less, if the host is right; some were not.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the point is not of the disk's present series, or the answers are implausible or do not cover the disk; else
    /// what the server says: it throws `FileFault` for points that it does not know.
    pub async fn changed_areas(
        &self,
        vm: &Moref,
        snapshot: &Moref,
        disk: &DiskConfig,
        point: &str,
    ) -> Result<Vec<(u64, u64)>, Error> {
        check_point(point, disk.change_id.as_deref().unwrap_or_default())?;
        self.areas(vm, snapshot, disk, point).await
    }

    async fn areas(
        &self,
        vm: &Moref,
        snapshot: &Moref,
        disk: &DiskConfig,
        point: &str,
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
                .with(Element::leaf("changeId", point));
            let answer = returnval(self.read(&call).await?)?;
            let mut found = Vec::new();
            let next = take(&answer, start, disk.capacity, &mut found)?;
            if point != EVERYTHING {
                check_places(&found, start, next)?;
            }
            start = next;
            areas.append(&mut found);
            if areas.len() > MAX_AREAS {
                return Err(bad(format!("at most {MAX_AREAS} areas"), "more"));
            }
        }
        Err(bad(format!("at most {MAX_ANSWERS} answers"), "more"))
    }
}

/// The change id that stands for "ever".
const EVERYTHING: &str = "*";

/// A change id is a series, a slash and a number that grows (vsphere.md section 3.6). Of another series, or of a time that is still to
/// come, nothing can be asked: tracking began anew, or the disk was set back.
fn check_point(point: &str, now: &str) -> Result<(), Error> {
    let parse = |id: &str| {
        let (series, number) = id.rsplit_once('/')?;
        Some((series.to_owned(), number.trim().parse::<u64>().ok()?))
    };
    let expected = || format!("a point of the series of \"{now}\", not after it");
    match (parse(point), parse(now)) {
        (Some((series, then)), Some((same, now))) if series == same && then <= now && !series.is_empty() => Ok(()),
        _ => Err(bad(expected(), format!("\"{point}\""))),
    }
}

/// Who names changed areas outside of what the answer is about cannot be trusted with the rest.
fn check_places(found: &[(u64, u64)], asked: u64, next: u64) -> Result<(), Error> {
    match found.iter().find(|(start, _)| !(asked..next).contains(start)) {
        Some((start, _)) => Err(bad(format!("changed areas from byte {asked} to {next}"), format!("one at {start}"))),
        None => Ok(()),
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
    fn a_point_is_of_the_disks_series_and_not_after_its_present() {
        assert!(check_point("52 0e-9f/4", "52 0e-9f/4").is_ok() && check_point("a/1", "a/12").is_ok());
        for (point, now) in
            [("*", "a/4"), ("a/5", "a/4"), ("b/1", "a/4"), ("a/1", ""), ("", ""), ("/1", "/2"), ("a/x", "a/4")]
        {
            assert!(matches!(check_point(point, now), Err(Error::Protocol { .. })), "{point} {now}");
        }
    }

    #[test]
    fn changed_areas_outside_of_the_answer_are_implausible() {
        assert!(check_places(&[(10, 500), (19, 1)], 10, 20).is_ok());
        assert!(check_places(&[(9, 5)], 10, 20).is_err() && check_places(&[(20, 5)], 10, 20).is_err());
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
