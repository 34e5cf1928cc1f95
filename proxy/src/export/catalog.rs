//! The catalog: the text file that VCB wrote beside an image, one `key= "value"` a line (vcb.md section 11). Scripts edit it with `sed`,
//! so every line we do not know is kept byte for byte.

use std::collections::HashSet;
use std::fmt::{self, Write};

/// A catalog has a few lines per disk; a longer file is none.
const MAX_LEN: usize = 1 << 20;

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatalogError {
    /// Not text, or too long.
    #[error("the catalog is not a text of at most 1 MiB in UTF-8")]
    NotText,
    /// A line that is neither `key= "value"` nor a comment.
    #[error("line {line} of the catalog is \"{found}\": expected key= \"value\"")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The line, shortened.
        found: String,
    },
    /// A key that stands twice.
    #[error("line {line} of the catalog has the key {key} again")]
    DuplicateKey {
        /// Counted from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A file name that leaves the backup directory, or is no name.
    #[error("line {line} of the catalog: {key} is \"{value}\": expected a plain file name in the backup directory")]
    FileName {
        /// Counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Two disks that share a file.
    #[error("line {line} of the catalog: {key} names \"{value}\", which another disk has already")]
    SharedFile {
        /// Counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// Without its end.
    text: String,
    pair: Option<(String, String)>,
}

/// A catalog: its lines in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    lines: Vec<Line>,
}

impl Catalog {
    /// An empty catalog.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a catalog and refuses what could harm: names that leave the directory, keys and files that stand twice.
    ///
    /// # Errors
    /// [`CatalogError`], with the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, CatalogError> {
        let text = std::str::from_utf8(bytes).ok().filter(|t| t.len() <= MAX_LEN && !t.contains('\0'));
        let mut lines = Vec::new();
        for (index, line) in text.ok_or(CatalogError::NotText)?.lines().enumerate() {
            let pair = parse_line(line)
                .map_err(|()| CatalogError::Line { line: index + 1, found: line.chars().take(80).collect() })?;
            lines.push(Line { text: line.to_owned(), pair });
        }
        let catalog = Self { lines };
        catalog.check()?;
        Ok(catalog)
    }

    fn check(&self) -> Result<(), CatalogError> {
        let (mut keys, mut files) = (HashSet::new(), HashSet::new());
        for (index, line) in self.lines.iter().enumerate() {
            let Some((key, value)) = &line.pair else { continue };
            let line = index + 1;
            if !keys.insert(key.as_str()) {
                return Err(CatalogError::DuplicateKey { line, key: key.clone() });
            }
            if !key.ends_with(".filename") {
                continue;
            }
            let (key, value) = (key.clone(), value.clone());
            if vmdk_rs::PlainName::new(&value).is_err() {
                return Err(CatalogError::FileName { line, key, value });
            }
            if !files.insert(value.to_lowercase()) {
                return Err(CatalogError::SharedFile { line, key, value });
            }
        }
        Ok(())
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// Keys and values in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| line.pair.as_ref()).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Adds a quoted value at the end.
    pub fn push(&mut self, key: &str, value: &str) {
        self.push_line(key, value, true);
    }

    /// Adds a bare value at the end, as `version` and `state` are written.
    pub fn push_bare(&mut self, key: &str, value: &str) {
        self.push_line(key, value, false);
    }

    fn push_line(&mut self, key: &str, value: &str, quoted: bool) {
        // Values come from the hypervisor; a line end in one would forge lines.
        let value = value.replace(['\n', '\r', '\0'], " ");
        let text = if quoted { format!("{key}= \"{value}\"") } else { format!("{key}= {value}") };
        self.lines.push(Line { text, pair: Some((key.to_owned(), value)) });
    }
}

fn parse_line(line: &str) -> Result<Option<(String, String)>, ()> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, value) = line.split_once('=').ok_or(())?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '"') {
        return Err(());
    }
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').ok_or(())?,
        None => value,
    };
    Ok(Some((key.to_owned(), value.to_owned())))
}

impl fmt::Display for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            f.write_str(&line.text)?;
            f.write_char('\n')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = concat!(
        "version= esx-3.0\n",
        "# a remark\n",
        "display_name= \"Virtual \"Machine\" 37\"\n",
        "disk.scsi0:0.filename= \"scsi0-0-0-vm37.vmdk\"\n",
        "config.vmx= \"[storage1] vm37/vm37.vmx\"\n",
        "host=myserver.mydomain\n",
        "vendor.unknown=  \"kept\"  \n"
    );

    #[test]
    fn unknown_keys_comments_and_spacing_survive_a_read_write_cycle() {
        let catalog = Catalog::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(catalog.to_string(), SAMPLE);
        assert_eq!(catalog.get("host"), Some("myserver.mydomain"));
        assert_eq!(catalog.get("display_name"), Some("Virtual \"Machine\" 37"));
        assert_eq!(catalog.get("vendor.unknown"), Some("kept"));
    }

    #[test]
    fn what_we_write_has_one_blank_and_quotes_and_one_line_per_key() {
        let mut catalog = Catalog::new();
        catalog.push_bare("version", "esx-3.0");
        catalog.push("display_name", "a\nstate= evil");
        assert_eq!(catalog.to_string(), "version= esx-3.0\ndisplay_name= \"a state= evil\"\n");
    }

    #[test]
    fn names_that_leave_the_directory_are_refused_with_key_and_line() {
        for bad in ["../x.vmdk", "/etc/passwd", "a/b.vmdk", "C:\\x.vmdk", "..", ""] {
            let text = format!("version= 1\ndisk.scsi0:0.filename= \"{bad}\"\n");
            let err = Catalog::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(err, CatalogError::FileName { line: 2, .. }), "{bad}: {err}");
        }
    }

    #[test]
    fn duplicate_keys_shared_files_and_lines_without_a_key_are_refused() {
        let duplicate = Catalog::parse(b"a= 1\na= 2\n").unwrap_err();
        assert_eq!(duplicate, CatalogError::DuplicateKey { line: 2, key: "a".into() });
        let shared = b"disk.scsi0:0.filename= \"x\"\ndisk.scsi0:1.filename= \"X\"\n";
        assert!(matches!(Catalog::parse(shared).unwrap_err(), CatalogError::SharedFile { line: 2, .. }));
        for bad in ["novalue", "= x", "a b= c", "a= \"open"] {
            assert!(matches!(Catalog::parse(bad.as_bytes()).unwrap_err(), CatalogError::Line { line: 1, .. }), "{bad}");
        }
        assert_eq!(Catalog::parse(b"a= \0"), Err(CatalogError::NotText));
    }
}
