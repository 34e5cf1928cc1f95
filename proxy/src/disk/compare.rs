//! Do two images hold the same disk, and if not, where is the first byte that differs?

use blockdev::ByteOffset;
use serde::{Serialize, Serializer};
use vmdk_rs::{CopyError, Difference};

use super::Watch;
use super::source::{Source, SourceSpec};
use crate::error::{Error, Family, Result};
use crate::job::{Cancel, Progress};

/// What a comparison found.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// The first difference, if there is one.
    #[serde(serialize_with = "difference")]
    pub difference: Option<Difference>,
    /// Where the first image stores the first byte that differs, for people.
    pub first_place: String,
    /// Where the second one does.
    pub second_place: String,
}

fn difference<S: Serializer>(found: &Option<Difference>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let value = match found {
        Some(Difference::Content { at }) => serde_json::json!({ "offset": at.0 }),
        Some(Difference::Size { first, second }) => serde_json::json!({ "sizes": [first.0, second.0] }),
        _ => serde_json::Value::Null,
    };
    value.serialize(serializer)
}

/// Compares two disks, byte for byte, reading what either of them holds.
///
/// # Errors
/// One of them cannot be read, or a cancel.
pub fn compare(first: &SourceSpec, second: &SourceSpec, progress: &Progress, cancel: &Cancel) -> Result<Compared> {
    let (a, b) = (Source::open(first)?, Source::open(second)?);
    let names = [a.path.display().to_string(), b.path.display().to_string()];
    let meter = progress.meter("comparing", a.size().0.max(b.size().0));
    let what = format!("cannot compare {} with {}", names[0], names[1]);
    let watch = Watch::new(meter, cancel);
    let found = vmdk_rs::compare(a.disk(), b.disk(), &|at| watch.at(at)).map_err(|error| match error {
        CopyError::Target(error) => crate::image_error(error, what),
        CopyError::Source(error) => crate::transport::from_read(error, &what),
        _ => Error::new(Family::Cancelled, "cancelled"),
    })?;
    watch.finish(a.size().0.max(b.size().0));
    let place = |source: &Source| match found {
        Some(Difference::Content { at }) => describe(source, at),
        _ => String::new(),
    };
    Ok(Compared { first_place: place(&a), second_place: place(&b), difference: found })
}

/// Where an image stores a byte, for people.
fn describe(source: &Source, at: ByteOffset) -> String {
    let name = source.path.display();
    if at.0 >= source.size().0 {
        return format!("{name} ends before it");
    }
    let mut byte = [0];
    let value = match source.disk().read_exact_at(at, &mut byte) {
        Ok(()) => format!("{:#04x}", byte[0]),
        Err(_) => "unreadable".to_owned(),
    };
    let stored = source.image().and_then(|image| {
        let placement = image.placement_at(at).ok()?;
        let stored = placement.stored?;
        let packed = if stored.compressed { ", compressed" } else { "" };
        Some(format!("{} at byte {}{packed}", source.path_of(placement.depth, stored.file).display(), stored.offset))
    });
    match (stored, source.image()) {
        (Some(place), _) => format!("{name} has {value}, stored in {place}"),
        (None, Some(_)) => format!("{name} has {value}, where nothing is stored"),
        (None, None) => format!("{name} has {value}"),
    }
}
