//! Is an image whole, and what of it can be mended without guessing?

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use vmdk_rs::{CompressionLevel, CopyTarget, CreateType, Severity, Subformat, VmdkError};

use super::convert::{Converted, Parent, options_for, written};
use super::source::{Source, SourceFormat, SourceSpec};
use super::{Watch, copy_error};
use crate::error::{Context, Error, Family, Result};
use crate::job::{Cancel, Progress};

/// The word for what a copy mends.
const MENDABLE: &str = "mendable";
/// The word for what could not be looked at.
const UNCHECKED: &str = "unchecked";

/// What a check found, in the field names of `qemu-img check --output=json` where it has them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// The file that was named.
    pub filename: String,
    /// Always `vmdk`: raw disks have nothing to check.
    pub format: &'static str,
    /// What could not be looked at.
    pub check_errors: u64,
    /// Problems that lose or endanger data.
    pub corruptions: u64,
    /// Problems that a copy mends without guessing. The name is ours.
    pub mendable: u64,
    /// Grains that take space for nothing.
    pub leaks: u64,
    /// Where the last grain ends in its file, for images of one file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_end_offset: Option<u64>,
    /// Grains of all sparse extents, those of parents among them.
    pub total_clusters: u64,
    /// How many are stored.
    pub allocated_clusters: u64,
    /// How many are compressed.
    pub compressed_clusters: u64,
    /// The first 1000 problems. The name is ours.
    pub findings: Vec<FoundProblem>,
}

/// One problem.
#[derive(Clone, Debug, Serialize)]
pub struct FoundProblem {
    /// `corrupt`, `mendable`, `leak` or `unchecked`.
    pub severity: &'static str,
    /// The file.
    pub filename: String,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What.
    pub problem: String,
}

impl CheckReport {
    /// Whether the disk's bytes are safe: leaks only waste space.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.corruptions == 0 && self.mendable == 0 && self.check_errors == 0
    }

    /// The error that a check ends with, if it found more than leaks.
    ///
    /// # Errors
    /// [`Family::Corrupt`]; [`Family::Failed`] if nothing else was found than that something could not be looked at.
    pub fn verdict(&self) -> Result<()> {
        if self.is_sound() {
            return Ok(());
        }
        if self.corruptions == 0 && self.mendable == 0 {
            let first = self.findings.iter().find(|finding| finding.severity == UNCHECKED);
            let why = first.map_or("", |finding| &finding.problem);
            let what =
                format!("{}: {} things could not be checked, the first is: {why}", self.filename, self.check_errors);
            return Err(Error::new(Family::Failed, what)
                .hint("files are looked for beside the image; --map NAME=PATH names others"));
        }
        let what = format!("{}: {} corruptions, {} mendable problems", self.filename, self.corruptions, self.mendable);
        let error = Error::new(Family::Corrupt, what);
        Err(if self.corruptions == 0 && self.check_errors == 0 {
            error.hint("the disk reads well; check --repair NEW writes a sound copy")
        } else {
            error.hint("restore the image from another copy; what is listed cannot be mended without guessing")
        })
    }
}

/// Checks an image and its parents: descriptors, tables and markers, no data.
///
/// # Errors
/// The file cannot be opened, or is no VMDK by its name. What is wrong inside it is in the report.
pub fn check(spec: &SourceSpec) -> Result<CheckReport> {
    if spec.format()? != SourceFormat::Vmdk {
        return Err(Error::new(Family::Usage, "a raw disk has nothing that could be checked"));
    }
    let (file, gate) = spec.open_gate()?;
    let found = vmdk_rs::check(Arc::new(file), &spec.name(), &gate);
    let findings = found.findings.iter().map(|finding| FoundProblem {
        severity: match finding.problem.severity() {
            Severity::Corrupt => "corrupt",
            Severity::Mendable => MENDABLE,
            Severity::Leak => "leak",
            Severity::Unchecked => UNCHECKED,
        },
        filename: gate.path_of(0, &finding.file).display().to_string(),
        offset: finding.at.map(|at| at.0),
        problem: finding.problem.to_string(),
    });
    Ok(CheckReport {
        filename: spec.path.display().to_string(),
        format: "vmdk",
        check_errors: found.unchecked,
        corruptions: found.corruptions,
        mendable: found.mendable,
        leaks: found.leaks,
        image_end_offset: found.end.map(|end| end.0),
        total_clusters: found.grains,
        allocated_clusters: found.stored,
        compressed_clusters: found.compressed,
        findings: findings.collect(),
    })
}

/// Reads all data of an image, and unpacks what is compressed.
///
/// # Errors
/// The first thing that cannot be read, or a cancel.
pub fn read_all(spec: &SourceSpec, progress: &Progress, cancel: &Cancel) -> Result<()> {
    let source = Source::open(spec)?;
    let name = spec.path.display().to_string();
    let watch = Watch::new(progress.meter(&name, source.size().0), cancel);
    vmdk_rs::copy(source.disk(), &Nowhere, &|at| watch.at(at)).map_err(|e| copy_error(e, &name, "nowhere"))?;
    watch.finish(source.size().0);
    Ok(())
}

/// Takes a disk and keeps nothing.
struct Nowhere;

impl CopyTarget for Nowhere {
    type Prepared = ();

    fn prepare(&self, _: blockdev::ByteOffset, _: &[u8]) -> std::result::Result<(), VmdkError> {
        Ok(())
    }
    fn place(&self, _: blockdev::ByteOffset, _: &[u8], (): &mut ()) -> std::result::Result<(), VmdkError> {
        Ok(())
    }
    fn store(&self, _: blockdev::ByteOffset, _: &[u8], (): ()) -> std::result::Result<(), VmdkError> {
        Ok(())
    }
}

/// Writes a sound copy of an image in its own form: leaks are left out, both copies of tables are alike, IDs agree. The content
/// ID stays, so that deltas to the image are deltas to its copy.
///
/// # Errors
/// The report names a corruption (nothing is written then), the form cannot be written, or those of a conversion.
pub fn repair(
    spec: &SourceSpec,
    report: &CheckReport,
    output: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Converted> {
    if report.corruptions == 0 && report.check_errors > 0 {
        return report.verdict().and_then(|()| Err(Error::new(Family::Failed, "not everything could be checked")));
    }
    if report.is_sound() && report.leaks == 0 {
        return Err(Error::new(
            Family::Usage,
            format!("nothing is wrong with {}, so nothing was written", report.filename),
        ));
    }
    if report.corruptions > 0 {
        let what = format!(
            "{} has {} problems that cannot be mended without guessing",
            report.filename,
            report.corruptions + report.check_errors
        );
        return Err(Error::new(Family::Corrupt, what).hint("nothing was written; restore the image from another copy"));
    }
    let source = Source::open(spec)?;
    let Some(image) = source.image() else { return Err(Error::new(Family::Usage, "a raw disk has nothing to repair")) };
    let own: Vec<String> = source.files().iter().map(|path| path.display().to_string()).collect();
    if let Some(other) =
        report.findings.iter().find(|finding| finding.severity == MENDABLE && !own.contains(&finding.filename))
    {
        return Err(Error::new(Family::Usage, format!("what can be mended is in {}, a parent", other.filename))
            .hint("repair the parent first; a copy of the delta would change nothing"));
    }
    let descriptor = image.descriptor();
    let subformat = written_form(&descriptor.create_type).ok_or_else(|| {
        Error::new(Family::Unsupported, format!("images of the dialect {} are not written", descriptor.create_type))
            .hint("disk convert writes the disk in another form")
    })?;
    let parent = match image.chain().nth(1) {
        Some((name, _)) => Some(Parent::open(&SourceSpec {
            path: source.path_of(1, name),
            format: Some(SourceFormat::Vmdk),
            map: spec.map.clone(),
        })?),
        None => None,
    };
    if let Some(parent) = &parent {
        parent.check_beside(output)?;
    }
    let mut options = options_for(&source, subformat, parent.as_ref());
    options.content_id = Some(descriptor.content_id);
    if let (Some(link), Some(hint)) = (&mut options.parent, &descriptor.parent_file_name_hint) {
        // The name it had, as the last part of a path: that is all that is looked for.
        link.file = vmdk_rs::PlainName::last_component(hint).failed(|| "the parent's name cannot be kept".into())?;
    }
    let level = CompressionLevel::default();
    written(output, "disk check --repair", &source, Some(options), parent.as_ref(), level, progress, cancel)
}

fn written_form(create_type: &CreateType) -> Option<Subformat> {
    Some(match create_type {
        CreateType::MonolithicFlat => Subformat::MonolithicFlat,
        CreateType::MonolithicSparse => Subformat::MonolithicSparse,
        CreateType::TwoGbMaxExtentFlat => Subformat::TwoGbMaxExtentFlat,
        CreateType::TwoGbMaxExtentSparse => Subformat::TwoGbMaxExtentSparse,
        CreateType::Vmfs | CreateType::VmfsThin | CreateType::VmfsPreallocated | CreateType::VmfsEagerZeroedThick => {
            Subformat::VmfsFlat
        }
        CreateType::StreamOptimized => Subformat::StreamOptimized,
        _ => return None,
    })
}
