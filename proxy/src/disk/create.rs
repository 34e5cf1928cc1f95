//! A new, empty disk.

use std::path::{Path, PathBuf};

use blockdev::ByteLen;
use vmdk_rs::{AdapterType, CreateOptions, ImageWriter, RawWriter};

use super::convert::{Parent, Target, options_for};
use super::source::{SourceSpec, check_target_name};
use super::staged::Staged;
use crate::error::{Error, Family, Result};
use crate::job::Cancel;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Where.
    pub output: PathBuf,
    /// Its form.
    pub target: Target,
    /// Its size in bytes; a delta has its parent's without one.
    pub size: Option<u64>,
    /// The controller it is for; a delta has its parent's without one.
    pub adapter: Option<AdapterType>,
    /// The disk that it is a delta to.
    pub parent: Option<SourceSpec>,
}

/// Makes an empty disk, or a delta that holds nothing yet. Answers its files, the named one first.
///
/// # Errors
/// The size is missing or fits no disk, a file exists, the operating system refuses, or a cancel.
pub fn create(request: &CreateRequest, cancel: &Cancel) -> Result<Vec<PathBuf>> {
    let parent = request.parent.as_ref().map(Parent::open).transpose()?;
    if let Some(parent) = &parent {
        parent.check_beside(&request.output)?;
    }
    let size = request.size.map(ByteLen).or(parent.as_ref().map(|parent| parent.source.size()));
    let size = size.ok_or_else(|| Error::new(Family::Usage, "the size of the disk is not said").hint("--size 40G"))?;
    check_target_name(&request.output, request.target == Target::Raw)?;
    let staged = Staged::begin(&request.output, "disk create")?;
    let made = make(&staged, request, parent.as_ref(), size).and_then(|()| cancel.check());
    match made {
        Ok(()) => staged.commit(),
        Err(error) => {
            staged.discard();
            Err(error)
        }
    }
}

fn make(staged: &Staged, request: &CreateRequest, parent: Option<&Parent>, size: ByteLen) -> Result<()> {
    let name = staged.name()?;
    let failed = |error| crate::image_error(error, format!("cannot make {name}"));
    let subformat = match (request.target, parent) {
        (Target::Vmdk(subformat), _) => subformat,
        (Target::Raw, Some(_)) => return Err(super::convert::raw_delta()),
        (Target::Raw, None) => {
            let writer = RawWriter::create(&staged.folder().join(Path::new(name)), size).map_err(failed)?;
            staged.check_free()?;
            return writer.finish().map(drop).map_err(failed);
        }
    };
    let mut options = match parent {
        Some(parent) => CreateOptions { capacity: size, ..options_for(&parent.source, subformat, Some(parent)) },
        None => CreateOptions::new(subformat, size),
    };
    options.uuid = None; // a new disk, also where it begins as a copy
    if let Some(adapter) = request.adapter {
        options.adapter = adapter;
        options.geometry = None;
    }
    let writer = ImageWriter::create(staged.folder(), name, &options).map_err(failed)?;
    staged.check_free()?;
    writer.finish().map(drop).map_err(failed)
}
