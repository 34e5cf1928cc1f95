use std::ops::ControlFlow;
use std::path::PathBuf;

use guestfs::{FileKind, Metadata, Timestamp};
use serde_json::{Value, json};

use super::mount::images;
use super::mount_args::{FsArgs, FsCommand, ImagesArgs, WhereArgs};
use super::output;
use crate::disk::blocking;
use crate::error::{Error, Family, Result};
use crate::job::{Cancel, Progress, ProgressMode, RunId};
use crate::mount::look::{copy_out, is_guest_path, is_like, open_tree, resolve, verify, walk};
use crate::mount::{MountSpec, NodeId, Report, Tree};

/// Attributes beyond this are named and not shown.
const MOST_SHOWN: usize = 64 << 10;

pub(super) async fn run(args: FsArgs) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    blocking(move || match args.command {
        FsCommand::Ls(place) => list(&open(&place)?),
        FsCommand::Cat(place) => {
            let at = open(&place)?;
            copy_out(&at.tree, at.node()?, &at.path, &mut std::io::stdout().lock())
        }
        FsCommand::Stat(place) => stat(&open(&place)?),
        FsCommand::Find { place, name } => find(&open(&place)?, &name, &cancel),
        FsCommand::Verify { place, progress } => verify_all(&open(&place)?, progress, &cancel),
    })
    .await
}

/// A tree, and what of it is meant.
struct At {
    tree: Tree,
    report: Report,
    /// Empty for all of it.
    path: String,
    json: bool,
}

impl At {
    fn node(&self) -> Result<NodeId> {
        resolve(&self.tree, &self.path, true)
    }
}

fn open(place: &WhereArgs) -> Result<At> {
    let (words, path) = split(&place.words);
    if words.is_empty() {
        return Err(Error::new(Family::Usage, "no image is named"));
    }
    let spec = spec(&words, &place.source)?;
    let (tree, report) = open_tree(&spec)?;
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    Ok(At { tree, report, path, json: place.json })
}

/// The images, and the path behind them if the last word is one.
fn split(words: &[PathBuf]) -> (Vec<PathBuf>, String) {
    match words.split_last() {
        Some((last, images)) if last.to_str().is_some_and(is_guest_path) => {
            (images.to_vec(), last.to_string_lossy().into_owned())
        }
        _ => (words.to_vec(), String::new()),
    }
}

fn spec(paths: &[PathBuf], source: &ImagesArgs) -> Result<MountSpec> {
    Ok(MountSpec {
        run: RunId::new(),
        state: PathBuf::new(),
        command: "fs".into(),
        images: images(paths, source)?,
        source: paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        directory: PathBuf::new(),
        allow_other: false,
    })
}

fn failed(what: &str, error: guestfs::FsError) -> Error {
    let family = match error.family() {
        guestfs::ErrorFamily::Corrupt => Family::Corrupt,
        guestfs::ErrorFamily::Unsupported => Family::Unsupported,
        guestfs::ErrorFamily::Io => Family::Failed,
        guestfs::ErrorFamily::Request => Family::Usage,
    };
    Error::new(family, what).caused_by(error)
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace(char::is_control, "?")
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Folder => "folder",
        FileKind::Link => "link",
    }
}

fn time(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    jiff::Timestamp::new(time.seconds, nanos).map_or_else(|_| time.seconds.to_string(), |time| time.to_string())
}

fn list(at: &At) -> Result<()> {
    let node = at.node()?;
    let what = format!("cannot list {}", at.path);
    if at.path.is_empty() && !at.json {
        output::text(&at.report.text());
        return Ok(());
    }
    if at.tree.metadata(node).map_err(|e| failed(&what, e))?.kind != FileKind::Folder {
        return show(at, node);
    }
    let mut entries = Vec::new();
    let listed = at.tree.list(node, 0, &mut |entry| {
        entries.push((entry.name, entry.node, entry.kind));
        ControlFlow::Continue(())
    });
    for (name, node, kind) in &entries {
        let metadata = at.tree.metadata(*node).ok();
        let size = metadata.as_ref().map(|metadata| metadata.size.0);
        let modified = metadata.as_ref().map(|metadata| time(metadata.modified));
        if at.json {
            let row = json!({ "name": String::from_utf8_lossy(name), "kind": kind_name(*kind), "size": size, "modified": modified });
            output::line(&row.to_string());
        } else {
            let size = size.map_or_else(|| "?".to_owned(), |size| size.to_string());
            let modified = modified.unwrap_or_else(|| "?".to_owned());
            output::line(&format!("{:6} {size:>15} {modified:>30} {}", kind_name(*kind), shown(name)));
        }
    }
    listed.map_err(|e| failed(&what, e))
}

fn stat(at: &At) -> Result<()> {
    show(at, resolve(&at.tree, &at.path, false)?)
}

/// All that is known of one file.
fn show(at: &At, node: NodeId) -> Result<()> {
    let what = format!("cannot look at {}", at.path);
    let metadata = at.tree.metadata(node).map_err(|e| failed(&what, e))?;
    let value = described(at, node, &metadata).map_err(|e| failed(&what, e))?;
    if at.json {
        return output::json(&value);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        output::line(&format!("{name:12} {}", text.replace(char::is_control, "?")));
    }
    Ok(())
}

fn described(at: &At, node: NodeId, metadata: &Metadata) -> Result<Value, guestfs::FsError> {
    let mut attributes = serde_json::Map::new();
    for name in at.tree.xattrs(node)? {
        let shown = match at.tree.xattr(node, &name, MOST_SHOWN) {
            Ok(value) => value.map_or(Value::Null, |value| text_or_hex(&value).into()),
            Err(error) => error.to_string().into(),
        };
        attributes.insert(String::from_utf8_lossy(&name).into_owned(), shown);
    }
    let target = if metadata.kind == FileKind::Link {
        Some(String::from_utf8_lossy(&at.tree.link_text(node)?).into_owned())
    } else {
        None
    };
    Ok(json!({
        "path": at.path,
        "node": format!("{:#x}", node.0),
        "kind": kind_name(metadata.kind),
        "size": metadata.size.0,
        "allocated": metadata.allocated.0,
        "links": metadata.links,
        "attributes": format!("{:#x}", metadata.attributes),
        "created": time(metadata.created),
        "modified": time(metadata.modified),
        "changed": time(metadata.changed),
        "accessed": time(metadata.accessed),
        "target": target,
        "xattrs": attributes,
    }))
}

fn text_or_hex(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => value.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn find(at: &At, pattern: &str, cancel: &Cancel) -> Result<()> {
    let mut first = None;
    let below = |path: &[u8]| match at.path.trim_end_matches(['/', '\\']) {
        "" => shown(path),
        top => format!("{top}/{}", shown(path)),
    };
    let mut each = |met: &crate::mount::look::Met<'_>| {
        let name = met.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if is_like(&String::from_utf8_lossy(name), pattern) {
            match at.json {
                true => output::line(&json!({ "path": below(met.path), "kind": kind_name(met.kind) }).to_string()),
                false => output::line(&below(met.path)),
            }
        }
        Ok(())
    };
    walk(&at.tree, at.node()?, cancel, &mut each, &mut |path, error| {
        let error = failed(&format!("cannot list {}", below(path)), error);
        tracing::warn!("{}", error.line());
        first.get_or_insert(error);
    })?;
    first.map_or(Ok(()), Err)
}

fn verify_all(at: &At, mode: ProgressMode, cancel: &Cancel) -> Result<()> {
    let from = if at.path.is_empty() { None } else { Some((at.node()?, at.path.clone())) };
    // What files take is not known beforehand; the volumes' sizes are the most that it can be.
    let total = at.report.volumes.iter().filter(|volume| volume.unreadable.is_none()).map(|volume| volume.size).sum();
    let meter = Progress::new(mode).meter("verify", total);
    let verified = verify(&at.tree, from, &meter, cancel)?;
    meter.set_total(verified.bytes);
    meter.finish();
    if at.json {
        output::json(&verified)?;
    } else {
        for finding in &verified.findings {
            output::line(&format!("{:11} {}: {}", finding.kind, shown(finding.path.as_bytes()), finding.why));
        }
        let (files, folders, links) = (verified.files, verified.folders, verified.links);
        let bytes = output::size(verified.bytes);
        output::line(&format!("{files} files read to the end ({bytes}), {folders} folders, {links} links"));
    }
    verified.verdict()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_a_path_if_it_looks_like_one() {
        let of = |words: &[&str]| {
            let (images, path) = split(&words.iter().map(PathBuf::from).collect::<Vec<_>>());
            (images.len(), path)
        };
        assert_eq!(of(&["a.vmdk", "b.vmdk", "C:\\Windows"]), (2, "C:\\Windows".into()));
        assert_eq!(of(&["a.vmdk", "digits/1"]), (1, "digits/1".into()));
        assert_eq!(of(&["a.vmdk", "b.vmdk"]), (2, String::new()));
    }
}
