//! What a new lab holds.

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::partition::{self, Partition};
use super::{DiskSource, DiskSpec, Firmware, LabError, VmSpec, World, sparse};
use crate::guest::log_file;

const NTFS: &[u8] = include_bytes!("../../fixtures/ntfs.img.gz");
const EXT4: &[u8] = include_bytes!("../../fixtures/ext4.img.gz");
/// The FAT32 volume: 1-sector clusters make 33 MiB the smallest; FAT32 needs 65525 of them.
const FAT_SIZE: usize = 40 << 20;
/// Slots of a guest log: 1 MiB, 2 to 3 seconds of transactions.
const LOG_SLOTS: u32 = 256;

/// What a new lab holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// Two running VMs, a Windows server and a Linux machine.
    Demo,
    /// No VM.
    Empty,
}

impl Template {
    pub(super) fn fill(self, world: &World) -> Result<(), LabError> {
        match self {
            Self::Empty => Ok(()),
            Self::Demo => fill_demo(world),
        }
    }
}

fn fill_demo(world: &World) -> Result<(), LabError> {
    let temporary = Images(world.dir().join("images.new"));
    fs::create_dir(&temporary.0).map_err(LabError::io("create", &temporary.0))?;
    let system = temporary.make("system.img", Partition::GptData, GzDecoder::new(NTFS))?;
    let data = fat_volume().map_err(LabError::io("make a FAT32 volume in", &temporary.0))?;
    let data = temporary.make("data.img", Partition::MbrFat32, data.as_slice())?;
    let linux = temporary.make("linux.img", Partition::MbrLinux, GzDecoder::new(EXT4))?;
    let spec = |name: &str, disks: Vec<PathBuf>| VmSpec {
        name: name.to_owned(),
        datastore: "datastore1".to_owned(),
        disks: disks.into_iter().map(|path| DiskSpec { source: DiskSource::RawFile(path) }).collect(),
        guest_id: "debian11_64Guest".to_owned(),
        firmware: Firmware::Bios,
        ip: Some("10.17.5.32".to_owned()),
        host_name: Some("linux01.example.com".to_owned()),
        power_on: true,
        tools: true,
        change_tracking: true,
    };
    world.add_vm(&VmSpec {
        guest_id: "windows2019srv_64Guest".to_owned(),
        firmware: Firmware::Efi,
        ip: Some("10.17.5.31".to_owned()),
        host_name: Some("win01.example.com".to_owned()),
        change_tracking: false,
        ..spec("Windows Server 01", vec![system, data])
    })?;
    world.add_vm(&spec("linux-01", vec![linux]))?;
    Ok(())
}

/// A folder of raw images, deleted when dropped.
struct Images(PathBuf);

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // what stays is only untidy
    }
}

impl Images {
    /// A disk with one partition that holds `volume`.
    fn make(&self, name: &str, kind: Partition, volume: impl Read) -> Result<PathBuf, LabError> {
        let path = self.0.join(name);
        make_image(&path, kind, volume).map_err(LabError::io("make", &path))?;
        Ok(path)
    }
}

fn make_image(path: &Path, kind: Partition, mut volume: impl Read) -> io::Result<()> {
    let file = File::create_new(path)?;
    let start = partition::START * 512;
    let mut at = start;
    let mut block = vec![0; 256 << 10];
    loop {
        let len = volume.read(&mut block)?;
        if len == 0 {
            break;
        }
        sparse::write(&file, at, &block[..len])?;
        at += len as u64;
    }
    let disk_sectors = at / 512 + partition::TAIL;
    file.set_len(disk_sectors * 512)?;
    for (sector, bytes) in partition::table(kind, (at - start) / 512, disk_sectors) {
        file.write_all_at(&bytes, sector * 512)?;
    }
    Ok(())
}

/// The data volume of the Windows machine.
fn fat_volume() -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FAT_SIZE];
    let options = fatfs::FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .bytes_per_cluster(512)
        .volume_label(*b"DATA       ")
        .volume_id(0x5f1f_0002);
    fatfs::format_volume(Cursor::new(&mut bytes), options)?;
    let volume = fatfs::FileSystem::new(Cursor::new(&mut bytes), fatfs::FsOptions::new())?;
    let root = volume.root_dir();
    // First, so that it is contiguous.
    root.create_file("guest.log")?.write_all(&log_file(LOG_SLOTS))?;
    for folder in ["Accounts", "Accounts/2026", "Photos"] {
        root.create_dir(folder)?;
    }
    for (name, content) in fat_files() {
        root.create_file(&name)?.write_all(&content)?;
    }
    drop(root);
    volume.stats()?; // counts the free clusters and notes them in the volume
    volume.unmount()?;
    repair_dot_entries(&mut bytes);
    Ok(bytes)
}

/// `fatfs` 0.3 gives the entries `.` and `..` of a new folder long names, and a `..` that means the root the root's cluster; the FAT
/// specification (section 6.5) wants them first, without long names, and cluster 0. Other readers mind.
fn repair_dot_entries(volume: &mut [u8]) {
    const DOT: &[u8; 11] = b".          ";
    const DOT_DOT: &[u8; 11] = b"..         ";
    const ROOT_CLUSTER: u8 = 2;
    let (sectors, _) = volume.as_chunks_mut::<512>();
    for sector in sectors {
        let (entries, _) = sector.as_chunks_mut::<32>();
        let [first, dot, third, dot_dot, ..] = entries else { continue };
        if !dot.starts_with(DOT) || !dot_dot.starts_with(DOT_DOT) {
            continue;
        }
        // Low and high half of the first cluster.
        if dot_dot[26..28] == [ROOT_CLUSTER, 0] && dot_dot[20..22] == [0, 0] {
            dot_dot[26] = 0;
        }
        (*first, *dot) = (*dot, *dot_dot);
        for unused in [third, dot_dot] {
            unused[0] = 0xe5; // deleted
        }
    }
}

fn fat_files() -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("README.TXT".to_owned(), b"The data volume of Windows Server 01.\r\n".to_vec()),
        ("Accounts/empty.csv".to_owned(), Vec::new()),
    ];
    for month in 1..=12 {
        let mut table = String::from("day,account,amount\r\n");
        for day in 1..=28 {
            table += &format!("2026-{month:02}-{day:02},{},{}.{:02}\r\n", 1000 + day * month, day * 37, month * 8);
        }
        files.push((format!("Accounts/2026/ledger of month {month:02}.csv"), table.into_bytes()));
    }
    for number in 0..3u8 {
        let bytes = (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0] ^ number);
        files.push((format!("Photos/Aufnahme äöü {number}.raw"), bytes.collect()));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_log_on_the_fat_volume_is_contiguous() {
        let disk = blockdev::MemDisk::new(fat_volume().unwrap());
        let region = crate::guest::log::find(&disk).unwrap().unwrap();
        assert_eq!(region.slots, LOG_SLOTS);
        assert!(crate::guest::log::read(&disk, region).unwrap().iter().all(Option::is_some));
    }
}
