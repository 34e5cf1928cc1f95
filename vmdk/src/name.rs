use std::fmt;

/// The longest name, in bytes: what Linux file systems allow (`NAME_MAX`).
const MAX_LEN: usize = 255;

/// Why a file name inside an image is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no name.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than any file's.
    #[error("the name is {actual} bytes long: at most {MAX_LEN}")]
    TooLong {
        /// Its length, in bytes.
        actual: usize,
    },
    /// The name is a path.
    #[error("the name is a path: only files beside the descriptor are opened")]
    Path,
    /// The name is `.` or `..`.
    #[error("the name is that of a folder")]
    Dots,
    /// The name contains a NUL, a line break or another control character, or a quotation mark.
    #[error("the name contains a control character or a quotation mark")]
    Control,
    /// The name begins like `json:`, `nbd:` or `C:`.
    #[error("the name begins like a URL or a drive letter")]
    Scheme,
    /// The file is a symbolic link.
    #[error("the file is a symbolic link")]
    Symlink,
    /// The file is a folder, a device, a pipe or a socket.
    #[error("the file is not a regular file")]
    NotRegular,
}

/// A checked file name: one component, which can only mean a file beside the descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainName(String);

impl PlainName {
    /// Checks a name.
    ///
    /// # Errors
    /// The name is empty, longer than 255 bytes, `.`, `..`, contains a separator of either kind, a control character or
    /// a quotation mark, or begins like a URL (`json:`) or drive letter.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_LEN {
            return Err(NameError::TooLong { actual: name.len() });
        }
        if name.contains(['/', '\\']) {
            return Err(NameError::Path);
        }
        if name == "." || name == ".." {
            return Err(NameError::Dots);
        }
        if name.contains(|c: char| c == '"' || c.is_control()) {
            return Err(NameError::Control);
        }
        if begins_like_a_url(name) {
            return Err(NameError::Scheme);
        }
        Ok(Self(name.to_owned()))
    }

    /// The last component of a path as VMware writes it: `/vmfs/volumes/…/x.vmdk`, `C:\vm\x.vmdk`, `[store] vm/x.vmdk`.
    ///
    /// # Errors
    /// The last component is no plain name.
    pub fn last_component(path: &str) -> Result<Self, NameError> {
        let last = path.rsplit(['/', '\\']).next().unwrap_or_default();
        let last = match last.split_once("] ") {
            Some((store, name)) if store.starts_with('[') => name,
            _ => last,
        };
        Self::new(last)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A letter, then letters, digits, `+`, `-` or `.`, then a colon: RFC 3986, section 3.1.
fn begins_like_a_url(name: &str) -> bool {
    let Some((scheme, _)) = name.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

impl fmt::Display for PlainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_real_disks_are_taken() {
        for name in ["x.vmdk", "my vm_1-flat.vmdk", "büro [1].vmdk", "...vmdk", "a..b", "10:30.vmdk", "a b: c.vmdk"] {
            assert_eq!(PlainName::new(name).unwrap().as_str(), name);
        }
        assert!(PlainName::new(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let refused = [
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            ("../x", NameError::Path),
            ("/etc/passwd", NameError::Path),
            ("a/b", NameError::Path),
            ("a\\b", NameError::Path),
            ("a\0b", NameError::Control),
            ("a\nb", NameError::Control),
            ("a\"b", NameError::Control),
            ("json:{}", NameError::Scheme),
            ("nbd:host", NameError::Scheme),
            ("C:x.vmdk", NameError::Scheme),
        ];
        for (name, why) in refused {
            assert_eq!(PlainName::new(name), Err(why), "{name}");
        }
        assert_eq!(PlainName::new(&"x".repeat(256)), Err(NameError::TooLong { actual: 256 }));
    }

    #[test]
    fn only_the_last_component_of_a_parent_hint_counts() {
        for hint in
            ["x 1.vmdk", "/vmfs/volumes/4f/vm/x 1.vmdk", "..\\C:\\vm\\x 1.vmdk", "[ds] vm/x 1.vmdk", "[ds] x 1.vmdk"]
        {
            assert_eq!(PlainName::last_component(hint).unwrap().as_str(), "x 1.vmdk");
        }
        assert_eq!(PlainName::last_component("/vmfs/"), Err(NameError::Empty));
        assert_eq!(PlainName::last_component("vm/.."), Err(NameError::Dots));
    }
}
