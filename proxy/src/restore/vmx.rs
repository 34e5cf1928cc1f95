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

fn split(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.split_once('=')?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    Some((key.trim().to_ascii_lowercase(), value))
}

/// The value of `key` in a `.vmx`.
pub(super) fn value<'a>(vmx: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = vmx.lines().rev().filter_map(split);
    pairs.find(|(found, _)| found == key).map(|(_, value)| value)
}

/// Rewrites a `.vmx`. Disks that are present in it but not among the changes are taken out, and named in the answer.
///
/// # Errors
/// [`Family::Corrupt`] if a restored disk is not plugged in anywhere.
pub(super) fn rewrite(vmx: &str, changes: &Changes) -> Result<(String, Vec<String>)> {
    let mut out = String::with_capacity(vmx.len() + 256);
    let mut dropped = Vec::new();
    let mut placed = Vec::new();
    let line = |out: &mut String, key: &str, value: &str| {
        out.push_str(&format!("{key} = \"{}\"\n", value.replace(['"', '\n', '\r'], "_")));
    };
    for text in vmx.lines() {
        let Some((key, value)) = split(text) else {
            out.push_str(text);
            out.push('\n');
            continue;
        };
        let device = key.strip_suffix(".filename");
        if is_place(&key) || (changes.new_identity && is_identity(&key)) {
            continue;
        }
        match (device, &changes.name, &changes.nvram) {
            (_, Some(name), _) if key == "displayname" => line(&mut out, "displayName", name),
            (_, _, Some(nvram)) if key == "nvram" => line(&mut out, "nvram", nvram),
            (Some(device), _, _) if value.to_ascii_lowercase().ends_with(".vmdk") => {
                match changes.disks.iter().find(|(address, _)| address == device) {
                    Some((address, file)) => {
                        line(&mut out, &format!("{device}.fileName"), file);
                        placed.push(address.clone());
                    }
                    None => {
                        dropped.push(device.to_owned());
                        line(&mut out, &format!("{device}.present"), "FALSE");
                    }
                }
            }
            _ => {
                out.push_str(text);
                out.push('\n');
            }
        }
    }
    if let Some((address, _)) = changes.disks.iter().find(|(address, _)| !placed.contains(address)) {
        return Err(Error::new(
            Family::Corrupt,
            format!("the .vmx does not plug in {address}, which the backup holds"),
        ));
    }
    line(&mut out, "uuid.action", if changes.new_identity { "create" } else { "keep" });
    Ok((out, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMX: &str = "# kept\ndisplayName = \"old\"\nuuid.bios = \"56 4d\"\nscsi0:0.fileName = \"old-000002.vmdk\"\nscsi0:1.fileName = \"data.vmdk\"\nide1:0.fileName = \"cd.iso\"\nnvram = \"old.nvram\"\nethernet0.generatedAddress = \"00:0c\"\nethernet0.connectionType = \"nat\"\n";

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
        assert_eq!(value(&vmx, "displayname"), Some("new _x_"));
        assert_eq!(value(&vmx, "scsi0:0.filename"), Some("new.vmdk"));
        assert_eq!(value(&vmx, "scsi0:1.present"), Some("FALSE"));
        assert_eq!(value(&vmx, "nvram"), Some("new.nvram"));
        assert_eq!(value(&vmx, "uuid.action"), Some("create"));
        assert_eq!((value(&vmx, "uuid.bios"), value(&vmx, "ethernet0.generatedaddress")), (None, None));
        assert!(vmx.starts_with("# kept\n") && vmx.contains("ide1:0.fileName = \"cd.iso\"\nnvram"));
        assert_eq!(dropped, ["scsi0:1"]);
    }

    #[test]
    fn a_disk_that_is_plugged_in_nowhere_is_data_gone_wrong() {
        let mut changes = changes();
        changes.disks.push(("scsi1:0".into(), "x.vmdk".into()));
        assert_eq!(rewrite(VMX, &changes).unwrap_err().family(), Family::Corrupt);
    }
}
