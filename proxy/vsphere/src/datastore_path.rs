use std::fmt;
use std::str::FromStr;

/// A file on a datastore, written `[datastore] folder/file.vmdk`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatastorePath {
    /// The datastore's name.
    pub datastore: String,
    /// The path below it, parts divided by `/`. Empty for the datastore itself.
    pub path: String,
}

/// A text that is no datastore path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a datastore path: expected `[datastore] folder/file`")]
pub struct DatastorePathError {
    /// The text.
    pub text: String,
}

impl DatastorePath {
    /// `path` on `datastore`.
    pub fn new(datastore: impl Into<String>, path: impl Into<String>) -> Self {
        Self { datastore: datastore.into(), path: path.into() }
    }

    /// The last part of the path.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The folder that holds the file: empty at the top.
    #[must_use]
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// What `name` means in a descriptor or configuration file at this place: another datastore path, or a name relative
    /// to this file's folder.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        name.parse().unwrap_or_else(|_| self.in_same_folder(name))
    }

    /// The file called `name` in this file's folder, whatever `name` looks like: for names that an image chose.
    #[must_use]
    pub fn in_same_folder(&self, name: &str) -> Self {
        let path = match self.folder() {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        };
        Self::new(&self.datastore, path)
    }
}

impl fmt::Display for DatastorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "[{}]", self.datastore),
            path => write!(f, "[{}] {path}", self.datastore),
        }
    }
}

impl FromStr for DatastorePath {
    type Err = DatastorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inside = text.trim().strip_prefix('[');
        let (datastore, path) =
            inside.and_then(|rest| rest.split_once(']')).ok_or_else(|| DatastorePathError { text: text.to_owned() })?;
        Ok(Self::new(datastore, path.trim_start()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written() {
        let path: DatastorePath = "[my ds (1)] a vm/a vm.vmdk".parse().unwrap();
        assert_eq!(path, DatastorePath::new("my ds (1)", "a vm/a vm.vmdk"));
        assert_eq!(path.to_string(), "[my ds (1)] a vm/a vm.vmdk");
        assert_eq!((path.folder(), path.file_name()), ("a vm", "a vm.vmdk"));
        assert_eq!("[ds]".parse::<DatastorePath>().unwrap().to_string(), "[ds]");
        for bad in ["", "ds/x.vmdk", "[ds", "ds] x"] {
            assert!(bad.parse::<DatastorePath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_taken_relative_to_the_folder() {
        let path = DatastorePath::new("ds", "vm/vm.vmx");
        assert_eq!(path.beside("vm.nvram"), DatastorePath::new("ds", "vm/vm.nvram"));
        assert_eq!(path.beside("[other] x/y.vmdk"), DatastorePath::new("other", "x/y.vmdk"));
        let strange = path.in_same_folder("[other] x.vmdk");
        assert_eq!(strange, DatastorePath::new("ds", "vm/[other] x.vmdk"));
        assert_eq!(DatastorePath::new("ds", "top.vmx").beside("x"), DatastorePath::new("ds", "x"));
    }
}
