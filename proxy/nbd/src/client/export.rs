//! What a server says of an export.

use crate::constants::{MAX_PAYLOAD, transmission};

/// Flags of [`Status`], by context.
pub mod state {
    /// `base:allocation`: nothing is allocated here.
    pub const HOLE: u64 = 1 << 0;
    /// `base:allocation`: reads as zeros.
    pub const ZERO: u64 = 1 << 1;
    /// `qemu:dirty-bitmap:NAME`: changed since the bitmap began.
    pub const DIRTY: u64 = 1 << 0;
}

/// A run of bytes of one status in one context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The first byte.
    pub start: u64,
    /// The number of bytes, never 0.
    pub len: u64,
    /// What the context says of them; see [`state`].
    pub flags: u64,
}

impl Status {
    /// The first byte behind this run.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Sizes that requests keep to ("Block size constraints").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths of requests are multiples of it. A power of two, at most 64 KiB. Reads are widened to it here.
    pub minimum: u32,
    /// What is efficient: a power of two.
    pub preferred: u32,
    /// The longest payload, at most 32 MiB.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// What holds where a server says nothing.
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: MAX_PAYLOAD }
    }
}

/// How the server frames its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replies {
    /// Simple replies only: neither holes nor block status.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers: structured replies with 64-bit lengths.
    Extended,
}

/// An export as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) size: u64,
    pub(crate) flags: u16,
    pub(crate) block: BlockSizes,
    pub(crate) replies: Replies,
    pub(crate) contexts: Vec<String>,
    pub(crate) tls: bool,
}

impl Export {
    /// The name that was asked for, or the canonical one if the server says it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's words about it, often none.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Sizes that requests keep to.
    #[must_use]
    pub const fn block(&self) -> BlockSizes {
        self.block
    }

    /// How the server frames its replies.
    #[must_use]
    pub const fn replies(&self) -> Replies {
        self.replies
    }

    /// The metadata contexts that were granted, of those that were asked for.
    #[must_use]
    pub fn contexts(&self) -> &[String] {
        &self.contexts
    }

    /// Whether a context was granted.
    #[must_use]
    pub fn has_context(&self, name: &str) -> bool {
        self.contexts.iter().any(|context| context == name)
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.tls
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & transmission::HAS_FLAGS != 0 && self.flags & flag != 0
    }

    /// Whether writes are refused.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.has(transmission::READ_ONLY)
    }

    /// Whether several connections see each other's writes.
    #[must_use]
    pub const fn can_multi_conn(&self) -> bool {
        self.has(transmission::CAN_MULTI_CONN)
    }

    /// Whether there is `NBD_CMD_FLUSH`.
    #[must_use]
    pub const fn can_flush(&self) -> bool {
        self.has(transmission::SEND_FLUSH)
    }

    /// Whether there is `NBD_CMD_FLAG_FUA`.
    #[must_use]
    pub const fn can_fua(&self) -> bool {
        self.has(transmission::SEND_FUA)
    }

    /// Whether there is `NBD_CMD_TRIM`.
    #[must_use]
    pub const fn can_trim(&self) -> bool {
        self.has(transmission::SEND_TRIM)
    }

    /// Whether there is `NBD_CMD_WRITE_ZEROES`.
    #[must_use]
    pub const fn can_write_zeroes(&self) -> bool {
        self.has(transmission::SEND_WRITE_ZEROES)
    }

    /// Whether a read may forbid an answer in pieces.
    #[must_use]
    pub const fn can_forbid_fragments(&self) -> bool {
        self.has(transmission::SEND_DF)
    }
}

/// An export that a server lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name; empty for the default export.
    pub name: String,
    /// The server's words about it, often none.
    pub description: String,
    /// What the server says of it; `None` if it does not say (`NBD_OPT_INFO`). Its contexts are all that it can be asked for.
    pub export: Option<Export>,
}
