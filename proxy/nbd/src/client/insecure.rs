//! What stands for TLS where this crate was built without: nothing can be asked for, so that nothing is done.

use super::Options;
use super::dial::Wire;
use crate::{Error, Family, Result, Uri};

/// There is none.
#[derive(Clone, Debug)]
pub(crate) enum TlsWish {}

impl TlsWish {
    pub(crate) fn new(_: &Uri, _: &Options) -> Result<Self> {
        Err(Error::new(Family::Unsupported, "TLS was left out when this program was built"))
    }

    pub(crate) async fn upgrade(&self, _: Wire) -> Result<Wire> {
        match *self {}
    }

    pub(crate) fn first_word_failed(&self, _: std::io::Error) -> Error {
        match *self {}
    }
}
