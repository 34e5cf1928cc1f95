//! Which files make up the source tree, and what is in them?

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file of the tree. `text` is absent for files that are not UTF-8: images, for example.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Relative to the top of the repository, with `/` between folders.
    pub(crate) path: String,
    pub(crate) text: Option<String>,
}

impl SourceFile {
    #[cfg(test)]
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: Some(text.to_owned()) }
    }

    /// The text of a Rust file; nothing for any other.
    pub(crate) fn rust(&self) -> Option<&str> {
        if self.path.ends_with(".rs") { self.text.as_deref() } else { None }
    }

    /// Whether the whole file is test code by where it lies.
    pub(crate) fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "benches")
    }

    /// The file's name without its folders.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// The top of the repository: the parent of this package's folder.
pub(crate) fn top() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// Every file but what is built and what git keeps for itself. `.gitignore` names nothing else.
pub(crate) fn read(top: &Path) -> io::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(top.join(&folder))? {
            let entry = entry?;
            let relative = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if !matches!(entry.file_name().to_str(), Some("target" | ".git")) {
                    folders.push(relative);
                }
            } else if kind.is_file() {
                let text = String::from_utf8(fs::read(entry.path())?).ok();
                files.push(SourceFile { path: relative.to_string_lossy().into_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
