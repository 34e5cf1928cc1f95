//! From one form to another.

use std::path::{Path, PathBuf};

use vmdk_rs::{
    CompressionLevel, CreateOptions, ImageWriter, ParentLink, PlainName, RawStream, RawWriter, StreamWriter, Subformat,
    copy, copy_difference,
};

use super::source::{Source, SourceSpec, check_target_name};
use super::staged::Staged;
use super::{Watch, copy_error};
use crate::error::{Context, Error, Family, Result};
use crate::job::{Cancel, Progress};

/// The form of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A VMDK.
    Vmdk(Subformat),
    /// The bytes of the disk alone.
    Raw,
}

/// What is to be converted, and to what.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// What is read.
    pub source: SourceSpec,
    /// The form of what is written.
    pub target: Target,
    /// Where to; `None` is standard output.
    pub output: Option<PathBuf>,
    /// Write a delta to this disk: only what differs from it.
    pub parent: Option<SourceSpec>,
    /// How hard compression tries.
    pub level: CompressionLevel,
}

/// What came of it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Converted {
    /// The files that were made, the named one first; none on standard output.
    pub files: Vec<PathBuf>,
    /// The size of the disk.
    pub virtual_size: u64,
    /// What the files take.
    pub actual_size: u64,
}

/// Converts a disk.
///
/// # Errors
/// Those of the source, of the target, and of a cancel; nothing is left then.
pub fn convert(options: &ConvertOptions, progress: &Progress, cancel: &Cancel) -> Result<Converted> {
    let source = Source::open(&options.source)?;
    let parent = options.parent.as_ref().map(Parent::open).transpose()?;
    match &options.output {
        None => to_stdout(options, &source, parent.as_ref(), progress, cancel),
        Some(output) => to_files(options, &source, parent.as_ref(), output, progress, cancel),
    }
}

/// The disk that a delta is to.
pub(super) struct Parent {
    pub(super) source: Source,
    link: ParentLink,
}

impl Parent {
    pub(super) fn open(spec: &SourceSpec) -> Result<Self> {
        let source = Source::open(spec)?;
        let Some(image) = source.image() else {
            return Err(Error::new(Family::Usage, format!("{} is raw, and a parent is a VMDK", spec.path.display()))
                .hint("convert it to monolithicFlat or vmfs first"));
        };
        // What a delta names is looked for beside it as a plain file.
        let plain = std::fs::symlink_metadata(&spec.path).is_ok_and(|metadata| metadata.is_file());
        if !plain || spec.path.file_name().is_none_or(|name| name.to_str().is_none()) {
            let what = format!("{} can be no parent: it is no plain file, or its name is no text", spec.path.display());
            return Err(Error::new(Family::Usage, what).hint("name the file itself, not a link to it"));
        }
        let file = PlainName::new(&spec.name())
            .map_err(|e| Error::new(Family::Usage, format!("{} can be no parent", spec.path.display())).caused_by(e))?;
        let link = ParentLink { file, content_id: image.descriptor().content_id };
        Ok(Self { source, link })
    }

    /// A delta finds its parent beside itself.
    pub(super) fn check_beside(&self, output: &Path) -> Result<()> {
        let folder = |path: &Path| std::fs::canonicalize(path.parent().unwrap_or(Path::new("")).join("."));
        let what = || format!("cannot use {}", output.display());
        if folder(output).failed(what)? == folder(&self.source.path).failed(what)? {
            return Ok(());
        }
        Err(Error::new(
            Family::Usage,
            format!("{} does not lie beside {}", output.display(), self.source.path.display()),
        )
        .hint("a delta names its parent without a folder; write both into one"))
    }
}

/// What the new image keeps of the old one.
pub(super) fn options_for(source: &Source, subformat: Subformat, parent: Option<&Parent>) -> CreateOptions {
    if let Some(image) = source.image()
        && let (Some(adapter), None) = (image.descriptor().ddb("ddb.adapterType"), image.descriptor().adapter())
    {
        tracing::warn!("the adapter type {adapter:?} is not known here; lsilogic is written");
    }
    let new = match source.image() {
        Some(image) => CreateOptions::like(image.descriptor(), subformat, source.size()),
        None => CreateOptions::new(subformat, source.size()),
    };
    CreateOptions { parent: parent.map(|parent| parent.link.clone()), ..new }
}

fn to_files(
    options: &ConvertOptions,
    source: &Source,
    parent: Option<&Parent>,
    output: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Converted> {
    if let Some(parent) = parent {
        parent.check_beside(output)?;
    }
    let create = match options.target {
        Target::Raw if parent.is_some() => return Err(raw_delta()),
        Target::Raw => None,
        Target::Vmdk(subformat) => Some(options_for(source, subformat, parent)),
    };
    written(output, "disk convert", source, create, parent, options.level, progress, cancel)
}

pub(super) fn raw_delta() -> Error {
    Error::new(Family::Usage, "a raw disk can be no delta").hint("--format monolithicSparse or twoGbMaxExtentSparse")
}

/// Writes a disk into files that get their names at the end. Without `create` they are raw.
#[expect(clippy::too_many_arguments, reason = "each is another decision of the caller")]
pub(super) fn written(
    output: &Path,
    command: &str,
    source: &Source,
    create: Option<CreateOptions>,
    parent: Option<&Parent>,
    level: CompressionLevel,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Converted> {
    check_target_name(output, create.is_none())?;
    let staged = Staged::begin(output, command)?;
    if let Err(error) = write_into(&staged, source, create, parent, level, progress, cancel) {
        staged.discard();
        return Err(error);
    }
    let files = staged.commit()?;
    let actual_size = files.iter().map(|path| super::info::allocated(path)).sum();
    Ok(Converted { files, virtual_size: source.size().0, actual_size })
}

fn write_into(
    staged: &Staged,
    source: &Source,
    create: Option<CreateOptions>,
    parent: Option<&Parent>,
    level: CompressionLevel,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    let name = staged.name()?.to_owned();
    let what = || format!("cannot write {name}");
    let failed = |error| crate::export::with_space_hint(crate::image_error(error, what()));
    let from = source.path.display().to_string();
    let watch = Watch::new(progress.meter(&name, source.size().0), cancel);
    let shown = |at| watch.at(at);
    let Some(create) = create else {
        let writer = RawWriter::create(&staged.folder().join(&name), source.size()).map_err(failed)?;
        staged.check_free()?;
        copy(source.disk(), &writer, &shown).map_err(|e| copy_error(e, &from, &name))?;
        cancel.check()?;
        writer.finish().map_err(failed)?;
        watch.finish(source.size().0);
        return Ok(());
    };
    let writer = ImageWriter::create_compressed(staged.folder(), &name, &create, level).map_err(failed)?;
    staged.check_free()?;
    let copied = match parent {
        Some(parent) => copy_difference(source.disk(), parent.source.disk(), &writer, &shown),
        None => copy(source.disk(), &writer, &shown),
    };
    copied.map_err(|e| copy_error(e, &from, &name))?;
    cancel.check()?;
    writer.finish().map_err(failed)?;
    watch.finish(source.size().0);
    Ok(())
}

fn to_stdout(
    options: &ConvertOptions,
    source: &Source,
    parent: Option<&Parent>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Converted> {
    let name = "standard output";
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Err(Error::new(Family::Usage, "a disk is not written to a terminal").hint("name a file, or a pipe"));
    }
    let failed = |error| crate::image_error(error, format!("cannot write {name}"));
    let from = source.path.display().to_string();
    let watch = Watch::new(progress.meter(name, source.size().0), cancel);
    let shown = |at| watch.at(at);
    // A buffer of lines, which standard output has, would cut the data into them.
    let out =
        std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().failed(|| name.into())?);
    match options.target {
        _ if parent.is_some() => {
            return Err(Error::new(Family::Usage, "a delta is not written to standard output")
                .hint("name a file beside its parent"));
        }
        Target::Raw => {
            let stream = RawStream::new(out, name, source.size());
            copy(source.disk(), &stream, &shown).map_err(|e| copy_error(e, &from, name))?;
            cancel.check()?;
            stream.finish().and_then(flushed).map_err(failed)?;
        }
        Target::Vmdk(Subformat::StreamOptimized) => {
            let file = PlainName::new(&format!("{}.vmdk", source.stem()))
                .map_err(|e| Error::new(Family::Usage, format!("{from} gives no file name")).caused_by(e))?;
            let create = options_for(source, Subformat::StreamOptimized, None);
            let stream = StreamWriter::new(out, &file, &create).map_err(failed)?.with_level(options.level);
            copy(source.disk(), &stream, &shown).map_err(|e| copy_error(e, &from, name))?;
            cancel.check()?;
            stream.finish().and_then(flushed).map_err(failed)?;
        }
        Target::Vmdk(other) => {
            let what = format!("{} is not written to standard output", other.create_type());
            return Err(Error::new(Family::Usage, what).hint("streamOptimized and raw are; or name a file with -o"));
        }
    }
    watch.finish(source.size().0);
    Ok(Converted { files: Vec::new(), virtual_size: source.size().0, actual_size: 0 })
}

/// What went to a file is on disk before success is told; a pipe has no such thing.
fn flushed(out: std::fs::File) -> std::result::Result<(), vmdk_rs::VmdkError> {
    if out.metadata().is_ok_and(|metadata| metadata.is_file()) {
        let failed = |source| vmdk_rs::VmdkError::Io { action: "write", file: "standard output".into(), source };
        return out.sync_all().map_err(failed);
    }
    Ok(())
}
