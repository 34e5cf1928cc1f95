//! Names as the server stores them: `%`, `/` and `\` are written `%25`, `%2f` and `%5c`.

/// The name as people write it.
pub(crate) fn unescape(stored: &str) -> String {
    let mut out = String::with_capacity(stored.len());
    let mut rest = stored;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let meant = match escape.get(..3).map(str::to_ascii_lowercase).as_deref() {
            Some("%25") => Some('%'),
            Some("%2f") => Some('/'),
            Some("%5c") => Some('\\'),
            _ => None,
        };
        out.push(meant.unwrap_or('%'));
        rest = escape.get(if meant.is_some() { 3 } else { 1 }..).unwrap_or_default();
    }
    out + rest
}

/// `name` so that the server takes no `%` in it for the beginning of an escape.
pub(crate) fn escape_percent(name: &str) -> String {
    name.replace('%', "%25")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_escapes_are_undone_and_others_stay() {
        assert_eq!(unescape("a%2fb%5Cc%2520d 100% %zz%"), "a/b\\c%20d 100% %zz%");
        assert_eq!(unescape("é%2Fü%é"), "é/ü%é");
        for name in ["100%", "%2f", "%25", "plain"] {
            assert_eq!(unescape(&escape_percent(name)), name);
        }
    }
}
