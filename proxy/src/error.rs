//! The product's error: what failed, why, what to do, and in which family, because backup products branch on exit codes.

use std::error::Error as StdError;
use std::fmt;

/// The families of outcomes, with the exit codes of the VCB reference ("Exit codes and prompts").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// I/O, network or hypervisor failed: 1.
    Failed,
    /// Usage or configuration: 2.
    Usage,
    /// No VM, or more than one: 3.
    NoVm,
    /// Not supported: 4.
    Unsupported,
    /// Data is wrong (catalog, image, digest): 5.
    Corrupt,
    /// Refused because something exists: 6.
    Exists,
    /// The data is good, but a mount or snapshot is left: 8.
    LeftBehind,
    /// Cancelled: 130.
    Cancelled,
}

impl Family {
    /// The process exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoVm => 3,
            Self::Unsupported => 4,
            Self::Corrupt => 5,
            Self::Exists => 6,
            Self::LeftBehind => 8,
            Self::Cancelled => 130,
        }
    }

    /// The family with this exit code; what no family has is a failure.
    #[must_use]
    pub fn of_exit_code(code: u8) -> Self {
        use Family::{Cancelled, Corrupt, Exists, Failed, LeftBehind, NoVm, Unsupported, Usage};
        let families = [Usage, NoVm, Unsupported, Corrupt, Exists, LeftBehind, Cancelled];
        families.into_iter().find(|family| family.exit_code() == code).unwrap_or(Failed)
    }
}

type Source = Box<dyn StdError + Send + Sync>;

/// What failed, its cause, and what to do about it.
#[derive(Debug)]
pub struct Error {
    family: Family,
    what: String,
    source: Option<Source>,
    hint: Option<String>,
}

/// The product's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `family` that says `what` failed.
    pub fn new(family: Family, what: impl Into<String>) -> Self {
        Self { family, what: what.into(), source: None, hint: None }
    }

    /// The same with its cause. A cause of this type hands its hint on.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same with what the user should do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The family, hence the exit code.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Wraps this error: the same family, `what` in front.
    #[must_use]
    pub fn within(self, what: impl Into<String>) -> Self {
        Self { family: self.family, what: what.into(), source: Some(Box::new(self)), hint: None }
    }

    /// The same error, which also says what could not be undone.
    #[must_use]
    pub fn and_left(self, left: &Self) -> Self {
        let what = format!("{}; besides, {}", self.line(), left.line());
        Self { family: self.family, what, source: None, hint: None }
    }

    fn find_hint(&self) -> Option<&str> {
        self.hint.as_deref().or_else(|| {
            let source = self.source.as_deref()?;
            source.downcast_ref::<Self>()?.find_hint()
        })
    }

    /// One line: what, each cause once, and the hint.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.what.clone();
        let mut last = 0; // where the latest text begins
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            if text.starts_with(&line[last..]) {
                line.truncate(last); // it says the same and more
                line.push_str(&text);
            } else if !line.contains(&text) {
                line.push_str(": ");
                last = line.len();
                line.push_str(&text);
            }
            next = cause.source();
        }
        if let Some(hint) = self.find_hint() {
            line.push_str(if line.ends_with('.') { " (Hint: " } else { ". (Hint: " });
            line.push_str(hint);
            line.push(')');
        }
        // Names and texts of images may hold what a terminal obeys.
        line.chars()
            .map(|c| {
                if c == '\n' {
                    ' '
                } else if c.is_control() {
                    '?'
                } else {
                    c
                }
            })
            .collect()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

/// Puts the product's words and family around a foreign error.
pub trait Context<T> {
    /// I/O, network or hypervisor failed while doing `what`.
    ///
    /// # Errors
    /// The wrapped one, of family [`Family::Failed`].
    fn failed(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Source>> Context<T> for std::result::Result<T, E> {
    fn failed(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(Family::Failed, what()).caused_by(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_each_cause_once_and_ends_with_the_innermost_hint() {
        let inner = Error::new(Family::Corrupt, "the catalog is damaged").hint("restore it from the copy");
        let line = inner.within("cannot restore vm1").within("cannot restore vm1").line();
        assert_eq!(line, "cannot restore vm1: the catalog is damaged. (Hint: restore it from the copy)");
    }

    #[test]
    fn a_cause_that_says_the_same_and_more_takes_the_place() {
        let inner = Error::new(Family::Failed, "cannot connect to vc:443: connection refused");
        assert_eq!(inner.within("cannot connect to vc:443").line(), "cannot connect to vc:443: connection refused");
    }

    #[test]
    fn wrapping_keeps_the_family() {
        assert_eq!(Error::new(Family::Exists, "x").within("y").family().exit_code(), 6);
    }
}
