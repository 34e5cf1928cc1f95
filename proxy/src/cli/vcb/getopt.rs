//! Options as VCB took them: one dash, one letter, the value glued or separate.

use crate::error::{Error, Family, Result};

/// Letters with their values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pairs: Vec<(char, String)>,
}

impl Options {
    /// Reads `args`. `with_value` and `flags` are the letters that are known; `usage` is the line for the rest.
    pub(super) fn parse(args: &[String], with_value: &str, flags: &str, usage: &str) -> Result<Self> {
        let bad = |what: String| Error::new(Family::Usage, what).hint(usage.to_owned());
        let mut pairs = Vec::new();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let mut chars = arg.chars();
            let letter = match (chars.next(), chars.next()) {
                (Some('-'), Some(letter)) => letter,
                _ => return Err(bad(format!("\"{arg}\" is not expected"))),
            };
            let glued = chars.as_str();
            if with_value.contains(letter) {
                let value = match glued {
                    "" => rest.next().ok_or_else(|| bad(format!("-{letter} lacks its value")))?.clone(),
                    glued => glued.to_owned(),
                };
                pairs.push((letter, value));
            } else if flags.contains(letter) && glued.is_empty() {
                pairs.push((letter, String::new()));
            } else {
                return Err(bad(format!("{arg} is not known")));
            }
        }
        Ok(Self { pairs })
    }

    /// The value of `letter`; the last one wins.
    pub(super) fn value(&self, letter: char) -> Option<&str> {
        self.pairs.iter().rev().find(|(found, _)| *found == letter).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, letter: char) -> bool {
        self.value(letter).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Options::parse(&args, "ah", "U", "usage: x")
    }

    #[test]
    fn values_may_be_glued_or_separate_and_may_look_like_options() {
        let options = parse(&["-aAny", "-h", "-host", "-U"]).unwrap();
        assert_eq!((options.value('a'), options.value('h'), options.has('U')), (Some("Any"), Some("-host"), true));
    }

    #[test]
    fn unknown_letters_missing_values_and_stray_words_are_usage_errors() {
        for bad in [&["-x"][..], &["-a"], &["word"], &["-"], &["-Uglued"], &[""]] {
            assert_eq!(parse(bad).unwrap_err().family(), Family::Usage, "{bad:?}");
        }
    }
}
