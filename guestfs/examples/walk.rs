//! Walks every readable volume of a raw disk, reads every file, and says how much there is.
//!
//!     cargo run --release -p guestfs --example walk -- disk.raw
#![allow(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use guestfs::{Cache, CachedDisk, FileId, FileKind, FileSystem};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: walk DISK.raw")?;
    let disk: Arc<dyn ReadAt> = Arc::new(FileDisk::open(path.as_ref())?);
    let cache = Cache::new(ByteLen(8 << 20));
    let layout = guestfs::volumes(&disk)?;
    for volume in &layout.volumes {
        println!("{}: {}, {}", volume.index, volume.kind, volume.len);
        if !guestfs::is_readable(volume.kind) {
            continue;
        }
        let window: Arc<dyn ReadAt> = Arc::new(volume.window(Arc::clone(&disk))?);
        let volume = guestfs::open_volume(volume.kind, Arc::new(CachedDisk::new(window, Arc::clone(&cache))))?;
        for note in &volume.about().notes {
            println!("   note: {note}");
        }
        walk(&*volume);
    }
    Ok(())
}

fn walk(volume: &dyn FileSystem) {
    let began = Instant::now();
    let (mut files, mut folders, mut count) = (Vec::new(), vec![volume.root()], 0u64);
    while let Some(folder) = folders.pop() {
        count += 1;
        let listed = volume.list(folder, 0, &mut |entry| {
            match entry.kind {
                FileKind::Folder => folders.push(entry.file),
                FileKind::File => files.push(entry.file),
                FileKind::Link => {}
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = listed {
            println!("   {error}");
        }
    }
    println!("   {count} folders and {} files listed in {:.2} s", files.len(), began.elapsed().as_secs_f64());
    let began = Instant::now();
    let failed = files.iter().filter(|file| volume.metadata(**file).is_err()).count();
    println!("   metadata read in {:.2} s, {failed} failed", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let (mut bytes, mut failed, mut buf) = (0u64, 0u64, vec![0; 1 << 20]);
    for file in files {
        match read(volume, file, &mut buf) {
            Ok(len) => bytes = bytes.saturating_add(len),
            Err(error) => {
                failed += 1;
                println!("   {error}");
            }
        }
    }
    println!("   {bytes} bytes read in {:.2} s, {failed} files failed", began.elapsed().as_secs_f64());
}

/// Reads a file to its end; answers its length.
fn read(volume: &dyn FileSystem, file: FileId, buf: &mut [u8]) -> Result<u64, Box<dyn Error>> {
    let file = volume.open(file)?;
    let size = file.size().0;
    let mut at = 0;
    while at < size {
        let take = usize::try_from(size - at)?.min(buf.len());
        file.read_exact_at(ByteOffset(at), buf.get_mut(..take).unwrap_or_default())?;
        at += u64::try_from(take)?;
    }
    Ok(size)
}
