//! What of a Rust file is code, and where do its functions begin and end?
//!
//! No parser: comments and literals are blanked out, then words and braces are counted. That is enough for rules about
//! length and leftovers, and it holds for macros too.

/// The text with comments, string literals and character literals replaced by blanks; line breaks stay, so that line
/// numbers do.
pub(crate) fn blank_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |c| c == '\n'),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => quoted_end(chars, at, '"'),
        'r' if !follows_word(chars, at) || after_prefix(chars, at) => raw_string_end(chars, at),
        '\'' => char_end(chars, at),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|&c| wanted(c)).map_or(chars.len(), |n| from + n)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && is_word(chars[at - 1])
}

/// Whether the `r` at `at` belongs to `br"` or `cr"`.
fn after_prefix(chars: &[char], at: usize) -> bool {
    at > 0 && matches!(chars[at - 1], 'b' | 'c') && !follows_word(chars, at - 1)
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#` and so on; `r#name` is a word.
fn raw_string_end(chars: &[char], start: usize) -> usize {
    let open = find(chars, start + 1, |c| c != '#');
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let hashes = open - start - 1;
    let closes = |at: usize| {
        chars[at] == '"' && chars.len() - at > hashes && chars[at + 1..=at + hashes].iter().all(|&c| c == '#')
    };
    (open + 1..chars.len()).find(|&at| closes(at)).map_or(chars.len(), |at| at + 1 + hashes)
}

/// A character literal, or just the quote when it is a lifetime.
fn char_end(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => quoted_end(chars, start, '\''),
        (Some(_), Some('\'')) => start + 3,
        _ => start,
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Line of the word `fn`, counted from 1.
    pub(crate) line: usize,
    /// From the word `fn` to the closing brace.
    pub(crate) lines: usize,
    /// Marked as a test by its attribute.
    pub(crate) marked: bool,
    /// Marked, or inside a module that only tests have.
    pub(crate) test: bool,
}

/// The functions of a Rust file, in the order in which they begin.
pub(crate) fn functions(text: &str) -> Vec<Function> {
    let code = blank_literals(text);
    let test_ranges = test_modules(&code);
    let mut found = Vec::new();
    for (at, name) in named_after(&code, "fn") {
        let Some(open) = body_start(&code, at) else { continue };
        let close = matching_brace(&code, open);
        let line = line_of(&code, at);
        let marked = is_marked_test(&code[..at]);
        let test = marked || test_ranges.iter().any(|range| range.contains(&at));
        found.push(Function { name, line, lines: line_of(&code, close) - line + 1, marked, test });
    }
    found
}

/// Every place where `keyword` stands before a name: `fn name`, `mod name`.
fn named_after(code: &str, keyword: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(keyword) {
        let before = code[..at].chars().next_back();
        let rest = &code[at + keyword.len()..];
        if before.is_some_and(is_word) || !rest.starts_with(char::is_whitespace) {
            continue;
        }
        let name: String = rest.trim_start().chars().take_while(|&c| is_word(c)).collect();
        if !name.is_empty() {
            found.push((at, name));
        }
    }
    found
}

/// The brace that opens a function's body; nothing when the function is only declared.
fn body_start(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return Some(from + offset),
            _ => {}
        }
    }
    None
}

fn matching_brace(code: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + offset;
        }
    }
    code.len()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Bodies of the modules under `#[cfg(test)]`.
fn test_modules(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    for (at, _) in named_after(code, "mod") {
        if attributes_before(&code[..at]).contains("cfg(test)")
            && let Some(open) = body_start(code, at)
        {
            ranges.push(open..matching_brace(code, open));
        }
    }
    ranges
}

fn is_marked_test(before: &str) -> bool {
    let attributes = attributes_before(before);
    attributes.contains("#[test]") || attributes.contains("::test]") || attributes.contains("::test(")
}

/// The attributes and words (`pub`, `async`) just before an item: what follows the last `}`, `;` or `{` of the text.
fn attributes_before(before: &str) -> &str {
    let start = before.rfind(['}', ';', '{']).map_or(0, |at| at + 1);
    &before[start..]
}

#[cfg(test)]
mod self_tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let text = "a // todo!()\nb /* { /* } */ { */ c \"}\\\"}\" r#\"}\"# br\"{\" '}' '\\'' 'x \u{e4}";
        let blanked = blank_literals(text);
        assert_eq!(blanked.lines().count(), 2);
        assert!(!blanked.contains(['{', '}', '"']), "{blanked}");
        assert!(blanked.contains("'x"), "a lifetime stays: {blanked}");
    }

    #[test]
    fn a_function_is_measured_from_fn_to_its_last_brace() {
        let text =
            "trait T { fn declared(&self) -> [u8; 4]; }\nfn one() {\n    if x {\n    }\n}\npub async fn two() {}\n";
        let found: Vec<_> = functions(text).into_iter().map(|f| (f.name, f.line, f.lines, f.test)).collect();
        assert_eq!(found, [("one".to_owned(), 2, 4, false), ("two".to_owned(), 6, 1, false)]);
    }

    #[test]
    fn functions_of_test_modules_and_marked_functions_are_tests() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}\n#[tokio::test]\nasync fn d() {}\n";
        let tests: Vec<_> = functions(text).into_iter().filter(|f| f.test).map(|f| f.name).collect();
        assert_eq!(tests, ["b", "d"]);
    }
}
