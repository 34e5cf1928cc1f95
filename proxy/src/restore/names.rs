//! Names for files: made from what people call their machines, and never twice in a folder.

use std::collections::HashSet;

/// VMware's products take names up to 80 characters; with the suffixes of disks they must fit 255 bytes.
pub(super) const MAX_STEM: usize = 200;

/// A file name made from a display name: what file systems and configuration files take without quoting.
pub(super) fn file_stem(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_. ".contains(c) { c } else { '_' };
    let stem: String = name.chars().map(plain).collect();
    stem.trim_matches(['.', ' ']).to_owned()
}

/// The names that the new folder will hold, whatever their case.
#[derive(Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    /// Takes a name; false if it was taken.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.0.insert(name.to_lowercase())
    }

    /// Takes the names of a flat disk, descriptor and data, if both are free.
    pub(super) fn take_disk(&mut self, descriptor: &str) -> bool {
        let stem = descriptor.strip_suffix(".vmdk").unwrap_or(descriptor);
        let both = [descriptor.to_lowercase(), format!("{stem}-flat.vmdk").to_lowercase()];
        let free = both.iter().all(|name| !self.0.contains(name));
        if free {
            self.0.extend(both);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_disks_never_share_a_file() {
        let mut names = Names::default();
        assert!(names.take_disk("vm.vmdk") && names.take_disk("vm_1.vmdk"));
        for taken in ["VM.vmdk", "vm-flat.vmdk", "vm_1-FLAT.vmdk"] {
            assert!(!names.take_disk(taken), "{taken}");
        }
        assert!(names.take("vm.nvram") && !names.take("VM.nvram"));
    }

    #[test]
    fn file_names_made_from_display_names_have_no_slashes_or_leading_dots() {
        assert_eq!(file_stem("../a/b: ü 1"), "_a_b_ ü 1");
        assert_eq!(file_stem(".."), "");
    }
}
