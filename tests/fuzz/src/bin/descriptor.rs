//! A descriptor that is read never panics and takes memory in proportion to its text; what was read and written is read
//! again as the same but for characters that cannot be written, and written again as the same text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmdk_rs::{Descriptor, ExtentLine};

fuzz_target!(|data: &[u8]| fuzz::limited(8 << 20, || check(data)));

fn check(data: &[u8]) {
    let Ok(disk) = Descriptor::parse(data).map_err(|error| (error.to_string(), error.family())) else { return };
    let text = disk.to_string();
    let again = Descriptor::parse(text.as_bytes()).expect("what was written can be read");
    assert_eq!(again, writable(&disk));
    assert_eq!(again.to_string(), text);
    assert_eq!(again.size(), disk.size());
    let values = |disk: &Descriptor| {
        (disk.adapter(), disk.uuid(), disk.hardware_version(), disk.tools_version(), disk.long_content_id())
    };
    assert_eq!(values(&disk), values(&disk));
    let _ = disk.geometry();
}

/// The same with a question mark for each character that the format cannot write.
fn writable(disk: &Descriptor) -> Descriptor {
    let text = |text: &str| text.replace(|c: char| c == '"' || c.is_control(), "?");
    let pairs = |pairs: &[(String, String)]| pairs.iter().map(|(key, value)| (text(key), text(value))).collect();
    let extent = |extent: &ExtentLine| ExtentLine {
        kind: text(extent.kind.as_str()).as_str().into(),
        file: extent.file.as_deref().map(text),
        ..extent.clone()
    };
    Descriptor {
        create_type: text(disk.create_type.as_str()).as_str().into(),
        parent_file_name_hint: disk.parent_file_name_hint.as_deref().map(text),
        other: pairs(&disk.other),
        extents: disk.extents.iter().map(extent).collect(),
        ddb: pairs(&disk.ddb),
        ..disk.clone()
    }
}
