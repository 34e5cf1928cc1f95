//! The `.vmx`: `key = "value"` a line. Rewritten for its new place; every line we have no reason to touch stays as it is.

use std::collections::BTreeMap;

use crate::error::{Error, Family, Result};
use crate::hypervisor::{Bus, DiskAddress};

/// ESX writes some kilobytes.
const MAX_LEN: usize = 4 << 20;

/// What a `.vmx` says, by keys in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Reads a `.vmx`. Of a key that stands twice the last value counts.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it is far too long.
    pub(crate) fn of(vmx: &str) -> Result<Self> {
        if vmx.len() > MAX_LEN {
            return Err(Error::new(Family::Corrupt, "the .vmx is longer than 4 MiB"));
        }
        Ok(Self(vmx.lines().filter_map(split).collect()))
    }

    /// The value of a key, if it is not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&key.to_ascii_lowercase()).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A number.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.trim().parse().ok()
    }

    /// Whether a key says `TRUE`.
    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    /// The devices with this prefix that are present, by number: 0 and 2 for `ethernet0` and `ethernet2`.
    pub(crate) fn present(&self, prefix: &str) -> Vec<u32> {
        let number = |key: &String| key.strip_prefix(prefix)?.strip_suffix(".present")?.parse().ok();
        let mut numbers: Vec<u32> = self.0.keys().filter_map(number).collect();
        numbers.retain(|n| self.is_true(&format!("{prefix}{n}.present")));
        numbers.sort_unstable();
        numbers
    }

    /// Devices at controllers that are present (`scsi0:1`), with what their `deviceType` says in lower case.
    pub(crate) fn drives(&self) -> Vec<(DiskAddress, String)> {
        let device = |key: &String| parse_address(key.strip_suffix(".present")?);
        let mut found: Vec<DiskAddress> = self.0.keys().filter_map(device).collect();
        found.retain(|device| self.is_true(&format!("{device}.present")));
        found.sort_unstable();
        let kind = |device: DiskAddress| {
            let kind = self.get(&format!("{device}.deviceType")).unwrap_or("disk").to_ascii_lowercase();
            (device, kind)
        };
        found.into_iter().map(kind).collect()
    }
}

/// `scsi0:1` in its parts.
pub(crate) fn parse_address(text: &str) -> Option<DiskAddress> {
    let buses = [
        ("scsi", Bus::Scsi),
        ("ide", Bus::Ide),
        ("sata", Bus::Sata),
        ("nvme", Bus::Nvme),
        ("virtio", Bus::Virtio),
        ("usb", Bus::Usb),
    ];
    let (bus, rest) = buses.iter().find_map(|(prefix, bus)| Some((*bus, text.strip_prefix(prefix)?)))?;
    let (controller, unit) = rest.split_once(':')?;
    Some(DiskAddress { bus, controller: controller.parse().ok()?, unit: unit.parse().ok()? })
}

/// How the copy differs from the original.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// The new display name.
    pub(crate) name: Option<String>,
    /// New file names by disk address.
    pub(crate) disks: Vec<(String, String)>,
    /// The NVRAM's new file name.
    pub(crate) nvram: Option<String>,
    /// Take the identity (UUIDs, generated MAC addresses) away, so that copy and original can live side by side.
    pub(crate) new_identity: bool,
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
pub(crate) fn decode(bytes: &[u8]) -> String {
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

/// One line.
pub(crate) fn line(out: &mut String, key: &str, value: &str) {
    out.push_str(&format!("{key} = \"{}\"\n", escape(value)));
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
pub(crate) fn value(vmx: &str, key: &str) -> Option<String> {
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
pub(crate) fn rewrite(vmx: &str, changes: &Changes) -> Result<(String, Vec<String>)> {
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
    fn devices_that_are_present_are_found() {
        let text = "scsi0.present = \"TRUE\"\nscsi0:1.present = \"true\"\nscsi0:1.deviceType = \"scsi-hardDisk\"\nscsi0:2.present = \"FALSE\"\nide1:0.present = \"TRUE\"\nide1:0.deviceType = \"cdrom-image\"\nethernet10.present = \"TRUE\"\nethernet2.present = \"TRUE\"\nethernetx.present = \"TRUE\"\nmemSize = \"512\"\n";
        let settings = Settings::of(text).unwrap();
        let drives: Vec<_> = settings.drives().into_iter().map(|(at, kind)| format!("{at} {kind}")).collect();
        assert_eq!(drives, ["scsi0:1 scsi-harddisk", "ide1:0 cdrom-image"]);
        assert_eq!((settings.present("ethernet"), settings.present("scsi")), (vec![2, 10], vec![0]));
        assert_eq!((settings.number("MEMSIZE"), settings.number("scsi0.present")), (Some(512), None));
        assert_eq!(Settings::of(&"x".repeat(MAX_LEN + 1)).unwrap_err().family(), Family::Corrupt);
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
