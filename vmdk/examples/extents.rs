//! Prints where the bytes of a disk are: `cargo run -p vmdk-rs --example extents -- disk.vmdk`.

use std::error::Error;
use std::path::Path;

use blockdev::{ByteOffset, ReadAt};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: extents DISK.vmdk")?;
    let image = vmdk_rs::open_path(Path::new(&path))?;
    let mut at = ByteOffset(0);
    while at.0 < image.size().0 {
        let place = image.placement_at(at)?;
        let file = place.stored.map_or("-", |stored| stored.file);
        println!(
            "{at} {:>10} {:?} in {file}, disk {} of the chain",
            place.extent.len.to_string(),
            place.extent.kind,
            place.depth
        );
        at = place.extent.end();
    }
    Ok(())
}
