use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vmdk_rs::{AdapterType, CompressionLevel, Subformat};

use super::output::ShowArgs;
use crate::disk::{SourceFormat, SourceSpec, Target};

#[derive(Args)]
pub(super) struct DiskArgs {
    #[command(subcommand)]
    pub(super) command: DiskCommand,
}

#[derive(Subcommand)]
pub(super) enum DiskCommand {
    /// Show what an image is
    Info {
        #[command(flatten)]
        source: SourceArgs,
        /// Print JSON, in the field names of qemu-img
        #[arg(long)]
        json: bool,
    },
    /// Show where the parts of a disk are stored
    Map {
        #[command(flatten)]
        source: SourceArgs,
        /// Print JSON, in the field names of qemu-img
        #[arg(long)]
        json: bool,
    },
    /// Write a disk in another form
    Convert(ConvertArgs),
    /// Compare the bytes of two disks
    Compare(CompareArgs),
    /// Look whether an image is whole
    Check(CheckArgs),
    /// Make an empty disk, or an empty delta to one
    Create(CreateArgs),
}

/// Which image is read.
#[derive(Args)]
pub(super) struct SourceArgs {
    /// The image: the file with the descriptor, a raw disk, or an NBD URI (nbd://HOST/EXPORT, nbds://…, nbd+unix:///EXPORT?socket=PATH)
    pub(super) image: PathBuf,
    /// Its format; without it the name tells (.vmdk, .raw, .img). Nothing is guessed from the content
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) from: Option<SourceFormat>,
    #[command(flatten)]
    pub(super) map: MapArgs,
}

#[derive(Args)]
pub(super) struct MapArgs {
    /// Where the image names NAME, open PATH: a parent or extent in another folder, or the device that a raw device map
    /// stands for; may stand more than once
    #[arg(long, value_name = "NAME=PATH", value_parser = name_and_path)]
    pub(super) map: Vec<(String, PathBuf)>,
}

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.rsplit_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("NAME=PATH is expected".into()),
    }
}

impl SourceArgs {
    pub(super) fn spec(&self) -> SourceSpec {
        SourceSpec { path: self.image.clone(), format: self.from, map: self.map.map.clone() }
    }
}

/// The forms that are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DiskFormat {
    /// One sparse file
    #[value(name = "monolithicSparse")]
    MonolithicSparse,
    /// A descriptor and one flat file
    #[value(name = "monolithicFlat")]
    MonolithicFlat,
    /// Sparse pieces of at most 2 GB
    #[value(name = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    /// Flat pieces of at most 2 GB
    #[value(name = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
    /// A descriptor and one flat file, as ESX writes it
    #[value(name = "vmfs")]
    Vmfs,
    /// One compressed file for transport
    #[value(name = "streamOptimized")]
    StreamOptimized,
    /// The bytes alone
    #[value(name = "raw")]
    Raw,
}

impl From<DiskFormat> for Target {
    fn from(format: DiskFormat) -> Self {
        Self::Vmdk(match format {
            DiskFormat::MonolithicSparse => Subformat::MonolithicSparse,
            DiskFormat::MonolithicFlat => Subformat::MonolithicFlat,
            DiskFormat::TwoGbMaxExtentSparse => Subformat::TwoGbMaxExtentSparse,
            DiskFormat::TwoGbMaxExtentFlat => Subformat::TwoGbMaxExtentFlat,
            DiskFormat::Vmfs => Subformat::VmfsFlat,
            DiskFormat::StreamOptimized => Subformat::StreamOptimized,
            DiskFormat::Raw => return Self::Raw,
        })
    }
}

#[derive(Args)]
pub(super) struct ConvertArgs {
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// What to write
    #[arg(long, value_enum, value_name = "NAME")]
    pub(super) format: DiskFormat,
    /// The file to make, or - for standard output (streamOptimized and raw)
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// Write a delta to this VMDK, which lies in the same folder: only what differs from it
    #[arg(long, value_name = "BASE")]
    pub(super) parent: Option<PathBuf>,
    /// How hard streamOptimized compresses, from 1, the fastest, to 12, the smallest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=12))]
    pub(super) level: u8,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

impl ConvertArgs {
    pub(super) fn level(&self) -> CompressionLevel {
        CompressionLevel::new(self.level).unwrap_or_default()
    }
}

#[derive(Args)]
pub(super) struct CompareArgs {
    /// The first image: a file or an NBD URI
    pub(super) first: PathBuf,
    /// The second image: a file or an NBD URI
    pub(super) second: PathBuf,
    /// The format of the first; without it the name tells
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) from: Option<SourceFormat>,
    /// The format of the second; without it the name tells
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) with: Option<SourceFormat>,
    #[command(flatten)]
    pub(super) map: MapArgs,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// Also read all data, which unpacks what is compressed
    #[arg(long)]
    pub(super) read_data: bool,
    /// Write a sound copy to this new file, if nothing has to be guessed for it
    #[arg(long, value_name = "NEW")]
    pub(super) repair: Option<PathBuf>,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// The file to make
    pub(super) image: PathBuf,
    /// Its form
    #[arg(long, value_enum, value_name = "NAME")]
    pub(super) format: DiskFormat,
    /// Its size: bytes, or with K, M, G or T; a delta has its parent's without it
    #[arg(long, value_parser = bytes)]
    pub(super) size: Option<u64>,
    /// The controller it is for: lsilogic, buslogic, ide or legacyESX
    #[arg(long, value_parser = adapter)]
    pub(super) adapter: Option<AdapterType>,
    /// Make a delta to this VMDK, which lies in the same folder
    #[arg(long, value_name = "BASE")]
    pub(super) parent: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn adapter(text: &str) -> Result<AdapterType, String> {
    AdapterType::from_ddb(text).ok_or_else(|| "lsilogic, buslogic, ide or legacyESX is expected".into())
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("bytes, or a number with K, M, G or T, are expected".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a whole number is expected".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than anybody has".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_binary_units() {
        let sizes = ["512", "1K", "3m", "40G", "2TiB", "7GB"].map(|text| bytes(text).unwrap());
        assert_eq!(sizes, [512, 1024, 3 << 20, 40 << 30, 2 << 40, 7 << 30]);
        for wrong in ["", "G", "1.5G", "-1", "1X", "99999999T", "18446744073709551616"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_in_images_may_contain_equals_signs() {
        assert_eq!(name_and_path("a=b.vmdk=/x/c.vmdk").unwrap(), ("a=b.vmdk".into(), "/x/c.vmdk".into()));
        assert!(name_and_path("a").is_err() && name_and_path("=a").is_err() && name_and_path("a=").is_err());
    }
}
