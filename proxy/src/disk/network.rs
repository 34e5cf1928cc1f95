//! Disks behind NBD servers, named by URIs wherever a file may be named.

use std::path::Path;

use nbd::{Client, Options, Uri};
use tokio::runtime::Handle;

use super::source::{SourceFormat, SourceSpec};
use crate::error::{Error, Family, Result};
use crate::transport::{NbdDisk, from_nbd};

/// The URI that stands where a path may stand; `None` if it is a path.
///
/// # Errors
/// [`Family::Usage`] for a URI that is wrong, [`Family::Unsupported`] for one that asks for what is not there.
pub(crate) fn uri_of(path: &Path) -> Result<Option<Uri>> {
    match path.to_str() {
        Some(text) if Uri::is_one(text) => text.parse().map(Some).map_err(from_nbd),
        _ => Ok(None),
    }
}

/// What goes with files alone must not be said of a network disk.
pub(super) fn check_spec(spec: &SourceSpec) -> Result<()> {
    let wrong = |what: &str| Err(Error::new(Family::Usage, format!("{what} does not go with an NBD URI")));
    match spec.format {
        Some(SourceFormat::Vmdk) => wrong("the format vmdk").map_err(|e: Error| {
            e.hint("an export is the bytes of a disk; what the server reads them from is its business")
        }),
        _ if !spec.map.is_empty() => wrong("--map"),
        _ => Ok(()),
    }
}

/// Opens an export for readers that wait.
///
/// # Errors
/// Whatever keeps the client from it.
pub(super) fn open(uri: &Uri) -> Result<NbdDisk> {
    let what = || format!("cannot open {uri}");
    let runtime = Handle::try_current().map_err(|e| Error::new(Family::Failed, what()).caused_by(e))?;
    let client = runtime.block_on(Client::connect(uri, &Options::default()));
    client.map(|client| NbdDisk::new(client, runtime)).map_err(|e| from_nbd(e).within(what()))
}

/// A name for files that are made from an export.
pub(super) fn stem(uri: &Uri) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    match uri.export().chars().map(plain).collect::<String>() {
        name if name.trim_start_matches(['.', '-']).is_empty() => "disk".to_owned(),
        name => name.trim_start_matches(['.', '-']).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_as_a_uri_is_one_and_a_wrong_one_is_no_file_name() {
        assert!(uri_of(Path::new("disk.raw")).unwrap().is_none());
        assert!(uri_of(Path::new("/nbd://x")).unwrap().is_none());
        assert!(uri_of(Path::new("nbd+unix:///a?socket=/b")).unwrap().is_some());
        assert_eq!(uri_of(Path::new("nbd+unix:///a")).unwrap_err().family(), Family::Usage);
        assert_eq!(uri_of(Path::new("nbds://x/?tls-psk-file=y")).unwrap_err().family(), Family::Unsupported);
    }

    #[test]
    fn names_of_exports_become_names_of_files() {
        let of = |text: &str| stem(&text.parse().unwrap());
        assert_eq!(of("nbd://h/scsi0:0"), "scsi0-0");
        assert_eq!(of("nbd://h/"), "disk");
        assert_eq!(of("nbd://h/../../etc"), "etc");
    }
}
