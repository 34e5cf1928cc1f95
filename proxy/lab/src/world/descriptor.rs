//! The descriptors of the lab's disks: a flat base, and redo logs above it.

use std::fs;
use std::path::Path;

use blockdev::{ByteLen, Sectors};
use uuid::Uuid;
use vmdk_rs::{CreateType, Descriptor, ExtentLine, ExtentType, MAX_DESCRIPTOR_LEN};

use super::state::{LayerState, replace_file};
use super::{DatastorePath, FileError, LabError};

/// A descriptor of a base: createType `vmfs`, one extent of `capacity` bytes.
pub(super) fn base(layer: &LayerState, capacity: u64, uuid: Uuid) -> Descriptor {
    let sectors = Sectors(capacity / 512);
    let mut text = Descriptor::new(CreateType::Vmfs);
    text.content_id = layer.content_id;
    text.extents.push(ExtentLine::rw(sectors, ExtentType::Vmfs, &layer.data));
    text.set_ddb("ddb.adapterType", "lsilogic");
    // The geometry that ESX gives to SCSI disks above 1 GiB; below, VMware uses 64 heads and 32 sectors.
    let (heads, per_track) = if capacity > 1 << 30 { (255, 63) } else { (64, 32) };
    text.set_ddb("ddb.geometry.cylinders", &(sectors.0 / (heads * per_track)).max(1).to_string());
    text.set_ddb("ddb.geometry.heads", &heads.to_string());
    text.set_ddb("ddb.geometry.sectors", &per_track.to_string());
    text.set_ddb("ddb.thinProvisioned", "1");
    text.set_ddb("ddb.uuid", &vmware_uuid(uuid));
    text.set_ddb("ddb.virtualHWVersion", "19");
    text
}

/// A descriptor of a redo log over `parent`: createType `vmfsSparse`.
pub(super) fn delta(layer: &LayerState, capacity: u64, parent: &LayerState) -> Descriptor {
    let mut text = Descriptor::new(CreateType::VmfsSparse);
    text.content_id = layer.content_id;
    text.parent_content_id = Some(parent.content_id);
    text.parent_file_name_hint = Some(parent.descriptor.clone());
    text.is_native_snapshot = Some(false);
    text.extents.push(ExtentLine::rw(Sectors(capacity / 512), ExtentType::VmfsSparse, &layer.data));
    text
}

/// Writes a descriptor in place of the one that is there.
pub(super) fn write(path: &Path, text: &Descriptor) -> Result<(), LabError> {
    replace_file(path, text.to_string().as_bytes(), 0o644).map_err(LabError::io("write", path))
}

/// Changes a descriptor and keeps the rest of it.
pub(super) fn change(host: &Path, path: &DatastorePath, edit: impl FnOnce(&mut Descriptor)) -> Result<(), LabError> {
    let mut text = read(host, path)?;
    edit(&mut text);
    write(host, &text)
}

/// Reads a descriptor.
pub(super) fn read(host: &Path, path: &DatastorePath) -> Result<Descriptor, LabError> {
    let len = fs::metadata(host).map_err(LabError::io("inspect", host))?.len();
    if len > ByteLen(MAX_DESCRIPTOR_LEN as u64).0 {
        let expected = MAX_DESCRIPTOR_LEN as u64;
        return Err(LabError::BadDisk { path: path.clone(), field: "length of the descriptor", actual: len, expected });
    }
    let bytes = fs::read(host).map_err(LabError::io("read", host))?;
    Descriptor::parse(&bytes).map_err(|source| LabError::Descriptor { path: path.clone(), source })
}

/// What a base's descriptor says: its data file, its capacity in bytes, its content id, its uuid.
pub(super) fn parse_base(text: &Descriptor, path: &DatastorePath) -> Result<(LayerState, u64, Option<Uuid>), LabError> {
    let unsupported = |what, actual: String| Err(LabError::Unsupported { what, actual: format!("{path}: {actual}") });
    if let Some(parent) = &text.parent_file_name_hint {
        return unsupported("registering a disk that has a parent", parent.clone());
    }
    let [extent] = text.extents.as_slice() else {
        return unsupported("registering a disk of several extents", text.extents.len().to_string());
    };
    let flat = matches!(extent.kind, ExtentType::Vmfs | ExtentType::Flat) && extent.offset.unwrap_or_default().0 == 0;
    let (true, Some(data)) = (flat, &extent.file) else {
        return unsupported("registering a disk that is not one flat file", extent.to_string());
    };
    if data.contains('/') || data == ".." {
        let source = FileError::Bad("a disk's data must lie beside its descriptor");
        return Err(LabError::File { path: path.folder().join(data), source });
    }
    let Some(capacity) = extent.sectors.to_bytes().filter(|bytes| bytes.0 > 0) else {
        return unsupported("a disk of this many sectors", extent.sectors.0.to_string());
    };
    let layer = LayerState { descriptor: path.file_name().to_owned(), data: data.clone(), content_id: text.content_id };
    Ok((layer, capacity.0, text.ddb("ddb.uuid").and_then(parse_vmware_uuid)))
}

/// The form of `ddb.uuid` and `uuid.bios`: `42 1e 9c … 5a-12 …`.
pub(super) fn vmware_uuid(uuid: Uuid) -> String {
    let hex: Vec<String> = uuid.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, second) = hex.split_at(8);
    format!("{}-{}", first.join(" "), second.join(" "))
}

/// Reads that form, and any other that has the same 32 digits.
pub(super) fn parse_vmware_uuid(text: &str) -> Option<Uuid> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    (digits.len() == 32).then(|| Uuid::parse_str(&digits).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_survive_the_form_of_vmware() {
        let uuid = Uuid::new_v4();
        let text = vmware_uuid(uuid);
        assert_eq!(text.len(), 47);
        assert_eq!(parse_vmware_uuid(&text), Some(uuid));
    }
}
