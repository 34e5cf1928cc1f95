//! Small files of this machine, where the hypervisor's host is this machine.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;

use crate::error::{Context, Error, Family, Result};

/// A file, whole.
///
/// # Errors
/// [`Family::Failed`] if it cannot be read; more than `limit` bytes are an error.
pub(super) async fn read_small(path: &str, limit: u64) -> Result<Bytes> {
    let path = path.to_owned();
    let work = move || {
        let what = || format!("cannot read {path}");
        let file = File::open(&path).failed(what)?;
        if !file.metadata().failed(what)?.is_file() {
            return Err(Error::new(Family::Failed, format!("{path} is no file")));
        }
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).failed(what)?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(Family::Unsupported, format!("{path} has more than {limit} bytes")));
        }
        Ok(Bytes::from(bytes))
    };
    tokio::task::spawn_blocking(work).await.failed(|| "a file was not read".into())?
}
