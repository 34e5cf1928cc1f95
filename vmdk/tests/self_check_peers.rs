//! The maker of images that our reader is held to is held to the foreign readers itself.

mod common;
#[path = "common/peers.rs"]
mod peers;

/// One of each dialect, and those where a reader is said to fail: the whole list takes a minute.
const SCENARIOS: [&str; 13] = [
    "hosted-zeroed-grains",
    "hosted-first-directory-damaged",
    "two-gb-sparse",
    "flat-two-gb",
    "custom-flat-zero-sparse",
    "cowd-over-cowd-over-flat",
    "sesparse-unmapped-over-flat",
    "sesparse-62-tib",
    "stream-last-grain-short",
    "stream-as-qemu-writes",
    "grown-disk",
    "mixed-chain",
    "descriptor-gbk",
];

#[test]
fn made_images_are_what_foreign_readers_say() {
    if !peers::have_maker() || !common::have("qemu-img") {
        return;
    }
    let Some(readers) = peers::readers() else { return };
    if let Err(table) = readers.self_check(&SCENARIOS) {
        panic!("{table}");
    }
}
