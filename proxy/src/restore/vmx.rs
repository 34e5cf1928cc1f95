//! The `.vmx`: `key = "value"` a line. Rewritten for its new place; every line we have no reason to touch stays as it is.

use crate::error::{Error, Family, Result};

/// How the copy differs from the original.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// The new display name.
    pub(super) name: Option<String>,
    /// New file names by disk address.
    pub(super) disks: Vec<(String, String)>,
    /// The NVRAM's new file name.
    pub(super) nvram: Option<String>,
    /// Take the identity (UUIDs, generated MAC addresses) away, so that copy and original can live side by side.
    pub(super) new_identity: bool,
}

/// Keys that make two VMs the same.
fn is_identity(key: &str) -> bool {
    let ethernet = key.strip_prefix("ethernet").is_some_and(|rest| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        matches!(rest, ".generatedaddress" | ".generatedaddressoffset")
    });
    ethernet || matches!(key, "uuid.bios" | "uuid.location" | "vc.uuid" | "uuid.action")
}

/// Keys that speak of the place the VM ran at.
fn is_place(key: &str) -> bool {
    matches!(key, "sched.swap.derivedname" | "vmotion.checkpointfbsize" | "checkpoint.vmstate" | "migrate.hostlog")
}

/// Reads a `.vmx`, whose `.encoding` may be anything: what is not UTF-8 is taken as Latin-1, which loses nothing.
pub(super) fn decode(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Values write what would end them as `|` and two hex digits.
fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('|') {
        out.push_str(before);
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = match code {
            Some(code) => {
                out.push(char::from(code));
                &after[2..]
            }
            None => {
                out.push('|');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '|' | '#' => out.push_str(&format!("|{:02X}", u32::from(c))),
            c if c.is_control() => out.push('_'),
            c => out.push(c),
        }
    }
    out
}

fn split(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once('=')?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    Some((key.trim().to_ascii_lowercase(), unescape(value)))
}

/// The value of `key` in a `.vmx`.
pub(super) fn value(vmx: &str, key: &str) -> Option<String> {
    let mut pairs = vmx.lines().rev().filter_map(split);
    pairs.find(|(found, _)| found == key).map(|(_, value)| value)
}

/// The devices that hold a disk, such as `scsi0:1`.
fn disk_devices(vmx: &str) -> Vec<String> {
    let pairs = vmx.lines().filter_map(split);
    pairs
        .filter(|(_, value)| value.to_ascii_lowercase().ends_with(".vmdk"))
        .filter_map(|(key, _)| key.strip_suffix(".filename").map(str::to_owned))
        .collect()
}

/// Rewrites a `.vmx`. Disks that are present in it but not among the changes are taken out whole, and named in the answer.
///
/// # Errors
/// [`Family::Corrupt`] if a restored disk is not plugged in anywhere.
pub(super) fn rewrite(vmx: &str, changes: &Changes) -> Result<(String, Vec<String>)> {
    let devices = disk_devices(vmx);
    if let Some((address, _)) = changes.disks.iter().find(|(address, _)| !devices.contains(address)) {
        return Err(Error::new(
            Family::Corrupt,
            format!("the .vmx does not plug in {address}, which the backup holds"),
        ));
    }
    let dropped: Vec<String> =
        devices.into_iter().filter(|device| !changes.disks.iter().any(|(address, _)| address == device)).collect();
    let mut out = String::with_capacity(vmx.len() + 256);
    let line = |out: &mut String, key: &str, value: &str| out.push_str(&format!("{key} = \"{}\"\n", escape(value)));
    for text in vmx.lines() {
        let Some((key, _)) = split(text) else {
            out.push_str(text);
            out.push('\n');
            continue;
        };
        let device = key.split_once('.').map_or("", |(device, _)| device);
        let replaced = matches!(key.as_str(), "uuid.action" | ".encoding");
        let gone = is_place(&key) || (changes.new_identity && is_identity(&key)) || dropped.iter().any(|d| d == device);
        let file = changes.disks.iter().find(|(address, _)| *address == device).map(|(_, file)| file);
        match (&changes.name, &changes.nvram, file) {
            _ if replaced || gone => {}
            (Some(name), _, _) if key == "displayname" => line(&mut out, "displayName", name),
            (_, Some(nvram), _) if key == "nvram" => line(&mut out, "nvram", nvram),
            (_, _, Some(file)) if key == format!("{device}.filename") => {
                line(&mut out, &format!("{device}.fileName"), file)
            }
            _ => {
                out.push_str(text);
                out.push('\n');
            }
        }
    }
    line(&mut out, ".encoding", "UTF-8");
    line(&mut out, "uuid.action", if changes.new_identity { "create" } else { "keep" });
    Ok((out, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMX: &str = "# kept\ndisplayName = \"old\"\nuuid.bios = \"56 4d\"\nscsi0:0.fileName = \"old-000002.vmdk\"\nscsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"data.vmdk\"\nide1:0.fileName = \"cd.iso\"\nnvram = \"old.nvram\"\nethernet0.generatedAddress = \"00:0c\"\nethernet0.connectionType = \"nat\"\n";

    fn changes() -> Changes {
        Changes {
            name: Some("new \"x\"".into()),
            disks: vec![("scsi0:0".into(), "new.vmdk".into())],
            nvram: Some("new.nvram".into()),
            new_identity: true,
        }
    }

    #[test]
    fn a_copy_gets_its_name_and_files_and_loses_its_identity() {
        let (vmx, dropped) = rewrite(VMX, &changes()).unwrap();
        let is = |key: &str, expected: &str| assert_eq!(value(&vmx, key).as_deref(), Some(expected));
        is("displayname", "new \"x\"");
        is("scsi0:0.filename", "new.vmdk");
        is("nvram", "new.nvram");
        is("uuid.action", "create");
        assert!(vmx.contains("displayName = \"new |22x|22\"\n") && !vmx.contains("scsi0:1"), "{vmx}");
        let mut keys: Vec<_> = vmx.lines().filter_map(split).map(|(key, _)| key).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "a variable is defined twice: {vmx}");
        assert_eq!((value(&vmx, "uuid.bios"), value(&vmx, "ethernet0.generatedaddress")), (None, None));
        assert!(vmx.starts_with("# kept\n") && vmx.contains("ide1:0.fileName = \"cd.iso\"\nnvram"));
        assert_eq!(dropped, ["scsi0:1"]);
    }

    #[test]
    fn a_file_in_another_encoding_keeps_its_letters() {
        let text = decode(b"displayName = \"B\xfcro\"\n.encoding = \"windows-1252\"\n");
        assert_eq!(value(&text, "displayname").as_deref(), Some("B\u{fc}ro"));
        let (vmx, _) = rewrite(&text, &Changes::default()).unwrap();
        assert_eq!(value(&vmx, ".encoding").as_deref(), Some("UTF-8"));
    }

    #[test]
    fn a_disk_that_is_plugged_in_nowhere_is_data_gone_wrong() {
        let mut changes = changes();
        changes.disks.push(("scsi1:0".into(), "x.vmdk".into()));
        assert_eq!(rewrite(VMX, &changes).unwrap_err().family(), Family::Corrupt);
    }
}
