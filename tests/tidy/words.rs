//! What must not be written down? Leftovers of work, names of one person's machine, names that say nothing.

use super::code::{blank_literals, functions};
use super::tree::SourceFile;

/// Macros and attributes that mean "not finished".
const LEFTOVERS: &[(&str, &str)] = &[
    ("todo!", "write it, or return an error that says it is not supported"),
    ("unimplemented!", "return an error that says it is not supported"),
    ("dbg!", "use tracing"),
    ("#[ignore", "a test that cannot run here skips with a printed reason"),
];

/// Folders and hosts that only one machine has. In two pieces, so that this file does not name them.
const PRIVATE: &[(&str, &str)] = &[("/wo", "rk/"), ("/ro", "ot/"), ("arti", "factory"), ("/tmp/b", "rief")];

/// Leftovers in Rust code; comments and strings may speak of them.
pub(crate) fn leftover_problems(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let Some(text) = file.rust() else { continue };
        for (number, line) in blank_literals(text).lines().enumerate() {
            for (word, instead) in LEFTOVERS.iter().filter(|(word, _)| contains_word(line, word)) {
                problems.push(format!("{}:{}: {word}: {instead}", file.path, number + 1));
            }
        }
    }
    problems
}

/// Whether `word` stands in the line, and not as the end of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !ends_with_name(&line[..at]))
}

fn ends_with_name(before: &str) -> bool {
    before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Absolute paths and hosts of the machine something was written on.
pub(crate) fn private_problems(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        for (number, line) in file.text.as_deref().unwrap_or_default().lines().enumerate() {
            for (start, end) in PRIVATE {
                let name = format!("{start}{end}");
                if line.match_indices(&name).any(|(at, _)| !goes_on(&line[..at], &name)) {
                    problems.push(format!("{}:{}: {name}: only one machine has it", file.path, number + 1));
                }
            }
        }
    }
    problems
}

/// Whether a path that begins here is the rest of a longer one, as in `$top/work/x` or `a.b/home/`.
fn goes_on(before: &str, name: &str) -> bool {
    name.starts_with('/')
        && before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_-.}])\"*>".contains(c))
        && !(before.ends_with('"') && quote_opens(before))
}

/// Whether the quote at the end of the text opens a string: an odd number of quotes came before on the line.
fn quote_opens(before: &str) -> bool {
    before.matches('"').count() % 2 == 1
}

/// Tests called `test_…`: the attribute says that already, the name says what happens.
pub(crate) fn test_name_problems(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        for function in file.rust().map(functions).unwrap_or_default() {
            if function.marked && function.name.starts_with("test_") {
                problems.push(format!(
                    "{}:{}: {}: name the behaviour, without test_",
                    file.path, function.line, function.name
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod self_tests {
    use super::*;

    #[test]
    fn leftovers_are_found_in_code_and_not_in_words_about_them() {
        let bad =
            SourceFile::sample("a.rs", "fn a() { todo!() }\nfn b() { dbg!(1); }\n#[ignore = \"slow\"]\nfn c() {}");
        let good = SourceFile::sample("b.rs", "// todo!()\nlet x = \"dbg!\"; let y = mytodo!();");
        let problems = leftover_problems(&[bad, good]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("a.rs:1: todo!:"));
        assert!(problems[2].starts_with("a.rs:3: #[ignore:"));
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_file() {
        let path = format!("{}{}", PRIVATE[0].0, PRIVATE[0].1);
        let lines = format!("see {path}x\nlet p = \"{path}x\";\ncp $top{path}x .\ncp \"$top\"{path}x .\n");
        let problems = private_problems(&[SourceFile::sample("README.md", &lines)]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("README.md:1:"));
        assert!(problems[1].starts_with("README.md:2:"));
    }

    #[test]
    fn a_test_named_test_is_found_and_a_helper_is_not() {
        let text = "fn test_disk() {}\n#[test]\nfn test_reads() {}\n#[test]\nfn reads() {}\n";
        let problems = test_name_problems(&[SourceFile::sample("proxy/src/a.rs", text)]);
        assert_eq!(problems, ["proxy/src/a.rs:3: test_reads: name the behaviour, without test_"]);
    }
}
