//! Which exports does a server have?

use bytes::{Buf, Bytes};

use super::dial::Dial;
use super::export::{ListedExport, Replies};
use super::haggle::string;
use super::handshake::{Greeted, greet};
use super::{Options, within};
use crate::constants::{option, reply};
use crate::{Error, Result, Uri};

/// Exports that are listed; a server that has more is refused.
const MOST_EXPORTS: usize = 10_000;
/// Exports that are asked about one by one; of those behind only the names are told.
const MOST_DESCRIBED: usize = 256;

/// The exports that a server lists, with what it says of each. The export in `uri` does not matter.
///
/// # Errors
/// [`Family::Refused`](crate::Family::Refused) where the server does not want to list, and all that connecting can end with.
pub async fn list(uri: &Uri, options: &Options) -> Result<Vec<ListedExport>> {
    let options = options.checked()?;
    let dial = Dial::new(uri, &options)?;
    let wire = within(options.timeout, "connecting", dial.connect()).await?;
    let listed = within(options.timeout, "listing the exports", async {
        let mut greeted = greet(wire, dial.tls()).await?;
        let mut exports = greeted.names().await?;
        for export in exports.iter_mut().take(MOST_DESCRIBED) {
            greeted.tell(export).await?;
        }
        greeted.haggle.abort().await;
        Ok(exports)
    });
    listed.await.map_err(|e| e.within(uri.address()))
}

impl Greeted {
    async fn names(&mut self) -> Result<Vec<ListedExport>> {
        self.haggle.send(option::LIST, &[]).await?;
        let mut exports = Vec::new();
        let each = |mut data: Bytes| {
            let len = data.try_get_u32().ok().and_then(|len| usize::try_from(len).ok());
            let name = len.filter(|len| *len <= data.len()).map(|len| data.split_to(len));
            let name = name.ok_or_else(|| Error::protocol("the name of a listed export is cut off"))?;
            let name = string(&name, "the name of a listed export")?;
            exports.push(ListedExport { name, description: string(&data, "a description")?, export: None });
            Ok(())
        };
        match self.haggle.replies(option::LIST, reply::SERVER, MOST_EXPORTS, each).await? {
            Ok(()) => Ok(exports),
            Err(refusal) => Err(refusal.into_error("listing the exports")),
        }
    }

    /// Fills in what `NBD_OPT_INFO` and `NBD_OPT_LIST_META_CONTEXT` say; a server may decline both.
    async fn tell(&mut self, listed: &mut ListedExport) -> Result<()> {
        let Ok(mut export) = self.describe(option::INFO, &listed.name).await? else { return Ok(()) };
        if self.replies != Replies::Simple {
            let found = self.contexts(option::LIST_META_CONTEXT, &listed.name, &[]).await?;
            export.contexts = found.unwrap_or_default().into_iter().map(|(_, name)| name).collect();
        }
        if listed.description.is_empty() {
            listed.description.clone_from(&export.description);
        }
        listed.export = Some(export);
        Ok(())
    }
}
