//! What is in an image, in the field names of `qemu-img info --output=json`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::source::Source;

/// What is known of an image without reading its data.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskInfo {
    /// The size of the disk, in bytes.
    pub virtual_size: u64,
    /// The file that was named.
    pub filename: String,
    /// The size of a grain, if there is one size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// `vmdk` or `raw`.
    pub format: &'static str,
    /// What the disk's own files take on their file systems, in bytes; its parents' are not counted. Unknown behind a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// The parent, as the image names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The parent, as it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The form of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<&'static str>,
    /// What VMDKs have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// Always false: nothing of ours leaves an image half written.
    pub dirty_flag: bool,
}

/// What only one format has.
#[derive(Clone, Debug, Serialize)]
pub struct FormatSpecific {
    /// The format.
    pub r#type: &'static str,
    /// Its facts.
    pub data: VmdkData,
}

/// The facts of a VMDK. From `adapter-type` on the names are ours.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmdkData {
    /// The content ID.
    pub cid: u32,
    /// The parent's content ID, `ffffffff` without a parent.
    pub parent_cid: u32,
    /// The dialect.
    pub create_type: String,
    /// The extents, in their order.
    pub extents: Vec<ExtentData>,
    /// `ddb.adapterType`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_type: Option<String>,
    /// `ddb.virtualHWVersion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_version: Option<u32>,
    /// `ddb.toolsVersion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools_version: Option<u32>,
    /// `ddb.uuid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// `ddb.longContentID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_content_id: Option<String>,
    /// Cylinders, heads, sectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geometry: Option<[u64; 3]>,
    /// The files of the chain that are descriptors, from this disk to the last parent.
    pub chain: Vec<String>,
}

/// An extent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExtentData {
    /// Whether grains are compressed.
    #[serde(skip_serializing_if = "is_false")]
    pub compressed: bool,
    /// Its part of the disk, in bytes.
    pub virtual_size: u64,
    /// Its file; empty for zeros.
    pub filename: String,
    /// The size of a grain, if it has grains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Its type, such as `SPARSE`.
    pub format: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the serialiser asks so")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What is known of an open image.
#[must_use]
pub fn info(source: &Source) -> DiskInfo {
    let mut files: Vec<PathBuf> = source.files();
    files.sort();
    files.dedup();
    let format_specific = source.image().map(|image| vmdk_data(source, image));
    let extents = format_specific.as_ref().map_or(&[][..], |specific| &specific.data.extents);
    let cluster_size = extents.first().and_then(|first| first.cluster_size);
    let parent = format_specific.as_ref().and_then(|specific| specific.data.chain.get(1).cloned());
    let hint = source.image().and_then(|image| image.descriptor().parent_file_name_hint.clone());
    DiskInfo {
        virtual_size: source.size().0,
        filename: source.path.display().to_string(),
        cluster_size: cluster_size.filter(|size| extents.iter().all(|extent| extent.cluster_size == Some(*size))),
        format: source.format().as_str(),
        actual_size: (!source.is_remote()).then(|| files.iter().map(|path| allocated(path)).sum()),
        backing_filename: hint.filter(|_| parent.is_some()),
        backing_filename_format: parent.is_some().then_some("vmdk"),
        full_backing_filename: parent.map(|name| source.path_of(1, &name).display().to_string()),
        format_specific,
        dirty_flag: false,
    }
}

fn vmdk_data(source: &Source, image: &vmdk_rs::Image) -> FormatSpecific {
    let descriptor = image.descriptor();
    let extents = image.parts().map(|part| ExtentData {
        compressed: part.compressed,
        virtual_size: part.len.0,
        filename: part.file.map(|name| source.path_of(0, name).display().to_string()).unwrap_or_default(),
        cluster_size: part.grain_len.map(|len| len.0),
        format: part.kind.to_string(),
    });
    let data = VmdkData {
        cid: descriptor.content_id,
        parent_cid: descriptor.parent_content_id.unwrap_or(u32::MAX),
        create_type: descriptor.create_type.to_string(),
        extents: extents.collect(),
        adapter_type: descriptor.ddb("ddb.adapterType").map(str::to_owned),
        hardware_version: descriptor.hardware_version(),
        tools_version: descriptor.tools_version(),
        uuid: descriptor.uuid().map(|uuid| uuid.to_string()),
        long_content_id: descriptor.ddb("ddb.longContentID").map(str::to_owned),
        geometry: descriptor.geometry().map(|g| [g.cylinders, g.heads, g.sectors]),
        chain: image.chain().map(|(name, _)| name.to_owned()).collect(),
    };
    FormatSpecific { r#type: "vmdk", data }
}

/// What a file takes on its file system, in bytes; 0 if that cannot be told.
pub(super) fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
}
