//! Digests of certificates, as people and servers write them.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// A digest of a DER certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thumbprint {
    /// What vSphere itself hands out up to 8.0.
    Sha1([u8; 20]),
    /// What people should pin.
    Sha256([u8; 32]),
}

impl Thumbprint {
    /// Whether this is a digest of `certificate` (DER).
    #[must_use]
    pub fn matches(&self, certificate: &[u8]) -> bool {
        let presented = Presented::of(certificate);
        *self == presented.sha1 || *self == presented.sha256
    }
}

/// Both digests of the certificate that a server presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The SHA-1 digest.
    pub sha1: Thumbprint,
    /// The SHA-256 digest.
    pub sha256: Thumbprint,
}

impl Presented {
    /// The digests of `certificate` (DER).
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self {
            sha1: Thumbprint::Sha1(Sha1::digest(certificate).into()),
            sha256: Thumbprint::Sha256(Sha256::digest(certificate).into()),
        }
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match self {
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        };
        for (i, byte) in bytes.iter().enumerate() {
            if i > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

/// A text that is no thumbprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a thumbprint: expected 20 (SHA-1) or 32 (SHA-256) bytes in hexadecimal")]
pub struct ThumbprintError {
    /// The text.
    pub text: String,
}

impl FromStr for Thumbprint {
    type Err = ThumbprintError;

    /// Reads `sha1:..`, `sha256:..`, or the bare digest, told by its length. Colons and case do not matter.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ThumbprintError { text: text.to_owned() };
        let lower = text.trim().to_ascii_lowercase();
        let (named, digits) = match (lower.strip_prefix("sha1:"), lower.strip_prefix("sha256:")) {
            (Some(rest), _) => (Some(20), rest),
            (_, Some(rest)) => (Some(32), rest),
            _ => (None, lower.as_str()),
        };
        let bytes = bytes_of(digits).ok_or_else(bad)?;
        if named.is_some_and(|length| length != bytes.len()) {
            return Err(bad());
        }
        match bytes.len() {
            20 => bytes.try_into().map(Self::Sha1).map_err(|_| bad()),
            32 => bytes.try_into().map(Self::Sha256).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u8>> =
        digits.bytes().filter(|b| *b != b':').map(|b| char::from(b).to_digit(16)?.try_into().ok()).collect();
    let nibbles = nibbles?;
    let (pairs, rest) = nibbles.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_spelling_is_read() {
        let canonical = "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D"; // SHA-1 of "abc"
        let bare = canonical.replace(':', "").to_lowercase();
        for text in [canonical.to_owned(), bare.clone(), format!("sha1:{bare}"), format!("SHA1:{canonical}")] {
            let print: Thumbprint = text.parse().unwrap();
            assert_eq!(print.to_string(), canonical);
            assert!(print.matches(b"abc"));
            assert!(!print.matches(b"abd"));
        }
    }

    #[test]
    fn sha256_is_told_by_its_length() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // SHA-256 of "abc"
        let print: Thumbprint = text.parse().unwrap();
        assert!(matches!(print, Thumbprint::Sha256(_)) && print.matches(b"abc"));
        assert_eq!(print, Presented::of(b"abc").sha256);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "sha1:", "aa:bb", "zz", "sha256:a9993e364706816aba3e25717850c26c9cd0d89d", "a9993", "é"] {
            assert!(text.parse::<Thumbprint>().is_err(), "{text}");
        }
    }
}
