//! Configuration files: lines of `key = "value"`. Keys do not distinguish case; `"`, `|` and control characters in a value are
//! written as `|` and two hexadecimal digits.

use std::fmt::Write;

/// A .vmx (or .vmsd) file, its lines in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vmx {
    lines: Vec<(String, String)>,
}

impl Vmx {
    /// Reads what can be read; lines of another form are left out.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let line = |line: &str| {
            let (key, value) = line.split_once('=')?;
            let key = key.trim();
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            (!key.is_empty() && !key.starts_with('#')).then(|| (key.to_owned(), unescape(value)))
        };
        Self { lines: text.lines().filter_map(line).collect() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Changes a line, or adds it at the end.
    pub(super) fn set(&mut self, key: &str, value: impl Into<String>) {
        match self.lines.iter_mut().find(|(k, _)| k.eq_ignore_ascii_case(key)) {
            Some((_, old)) => *old = value.into(),
            None => self.lines.push((key.to_owned(), value.into())),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.lines {
            let _ = writeln!(text, "{key} = \"{}\"", escape(value)); // writing into a String cannot fail
        }
        text
    }
}

fn escape(value: &str) -> String {
    let mut text = String::new();
    for c in value.chars() {
        match c {
            '"' | '|' | '\0'..='\x1f' => {
                let _ = write!(text, "|{:02X}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text
}

fn unescape(value: &str) -> String {
    let mut parts = value.split('|');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (code, part.get(2..)) {
            (Some(code), Some(rest)) => {
                text.push(char::from(code));
                text.push_str(rest);
            }
            _ => {
                text.push('|');
                text.push_str(part);
            }
        }
    }
    text
}

/// `windows2019srv_64Guest` of the API is `windows2019srv-64` in the file.
pub(super) fn guest_os_of_id(id: &str) -> String {
    id.strip_suffix("Guest").unwrap_or(id).replace('_', "-")
}

/// The other way round.
pub(super) fn id_of_guest_os(name: &str) -> String {
    format!("{}Guest", name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_quotes_and_bars_survive() {
        let mut vmx = Vmx::default();
        vmx.set("displayName", "a \"b\" | c\n");
        assert_eq!(vmx.to_text(), "displayName = \"a |22b|22 |7C c|0A\"\n");
        assert_eq!(Vmx::parse(vmx.to_text().as_bytes()), vmx);
    }

    #[test]
    fn keys_do_not_distinguish_case_and_odd_lines_are_left_out() {
        let vmx = Vmx::parse(b"#!/usr/bin/vmware\r\n\r\nSCSI0:0.FileName = \"x y.vmdk\"\r\nrubbish\r\nmemsize = 512\n");
        assert_eq!(vmx.get("scsi0:0.filename"), Some("x y.vmdk"));
        assert_eq!(vmx.get("memSize"), Some("512"));
    }

    #[test]
    fn guest_ids_have_two_forms() {
        assert_eq!(guest_os_of_id("windows2019srv_64Guest"), "windows2019srv-64");
        assert_eq!(id_of_guest_os("debian11-64"), "debian11_64Guest");
    }
}
