//! Writes what one disk has and its base has not: `cargo run -p vmdk-rs --example delta -- base.vmdk changed.raw delta.vmdk`.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use blockdev::{FileDisk, ReadAt};
use vmdk_rs::{CreateOptions, ImageWriter, ParentLink, PlainName, Subformat, copy_difference, open_path};

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [base_name, changed, delta] = names.as_slice() else { return Err("usage: delta BASE CHANGED DELTA".into()) };
    let (base, changed) = (open_path(Path::new(base_name))?, FileDisk::open(Path::new(changed))?);
    let file = Path::new(base_name).file_name().and_then(|name| name.to_str()).ok_or("the base has no name")?;
    let parent = ParentLink { file: PlainName::new(file)?, content_id: base.descriptor().content_id };
    let options = CreateOptions {
        parent: Some(parent),
        ..CreateOptions::like(base.descriptor(), Subformat::MonolithicSparse, changed.size())
    };
    // A delta finds its base beside itself.
    let folder = Path::new(base_name).parent().unwrap_or(Path::new(""));
    let writer = ImageWriter::create(folder, delta, &options)?;
    copy_difference(&changed, &base, &writer, &|_| ControlFlow::Continue(()))?;
    for file in writer.finish()? {
        println!("{}", file.display());
    }
    Ok(())
}
