//! Do files and functions stay small? A ratchet: what is too long stands in a table, and may only shrink.

use super::code::functions;
use super::tree::SourceFile;

/// Lines of a function, from `fn` to its closing brace. A screen is 50; this leaves room for a long match.
const FUNCTION_LINES: usize = 80;
/// Lines of a Rust file, its tests included. About 300 is the norm, 500 asks for a second look.
const FILE_LINES: usize = 600;

/// Functions known to be longer: file, name, lines. Lower a number when the function shrinks; add none.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];
/// Files known to be longer: path, lines. Lower a number when the file shrinks; add none.
const LONG_FILES: &[(&str, usize)] = &[];

pub(crate) fn function_problems(files: &[SourceFile]) -> Vec<String> {
    check_functions(files, LONG_FUNCTIONS)
}

pub(crate) fn file_problems(files: &[SourceFile]) -> Vec<String> {
    check_files(files, LONG_FILES)
}

fn check_functions(files: &[SourceFile], known: &[(&str, &str, usize)]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut unseen = known.to_vec();
    for file in files.iter().filter(|file| !file.is_test()) {
        for function in file.rust().map(functions).unwrap_or_default() {
            let place = known.iter().find(|(path, name, _)| *path == file.path && *name == function.name);
            let allowed = place.map_or(FUNCTION_LINES, |(_, _, lines)| *lines);
            if !function.test && function.lines > allowed {
                problems.push(format!(
                    "{}:{}: {} has {} lines, {allowed} are allowed: split it by what it does",
                    file.path, function.line, function.name, function.lines
                ));
            }
            if place.is_some() && function.lines > FUNCTION_LINES {
                unseen.retain(|entry| Some(entry) != place);
                if function.lines < allowed {
                    problems.push(format!(
                        "{}:{}: {} has shrunk to {} lines: lower its number in tests/tidy/sizes.rs",
                        file.path, function.line, function.name, function.lines
                    ));
                }
            }
        }
    }
    problems.extend(
        unseen.iter().map(|(path, name, _)| {
            format!("{path}: {name} is gone or short enough: take it out of tests/tidy/sizes.rs")
        }),
    );
    problems
}

fn check_files(files: &[SourceFile], known: &[(&str, usize)]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let Some(text) = file.rust() else { continue };
        let lines = text.lines().count();
        let place = known.iter().find(|(path, _)| *path == file.path);
        let allowed = place.map_or(FILE_LINES, |(_, lines)| *lines);
        if lines > allowed {
            problems.push(format!(
                "{}: {lines} lines, {allowed} are allowed: a module that answers one question is missing",
                file.path
            ));
        } else if place.is_some() && lines < allowed {
            problems.push(format!(
                "{}: has shrunk to {lines} lines: lower its number in tests/tidy/sizes.rs, or take it out",
                file.path
            ));
        }
    }
    let gone = known.iter().filter(|(path, _)| !files.iter().any(|file| file.path == *path));
    problems.extend(gone.map(|(path, _)| format!("{path}: is gone: take it out of tests/tidy/sizes.rs")));
    problems
}

#[cfg(test)]
mod self_tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
        let at = SourceFile::sample("proxy/src/a.rs", &function_of(FUNCTION_LINES));
        let over = SourceFile::sample("proxy/src/b.rs", &function_of(FUNCTION_LINES + 1));
        let problems = check_functions(&[at, over], &[]);
        assert_eq!(problems, ["proxy/src/b.rs:1: long has 81 lines, 80 are allowed: split it by what it does"]);
    }

    #[test]
    fn long_functions_of_tests_are_let_be() {
        let text = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function_of(100));
        assert!(check_functions(&[SourceFile::sample("proxy/src/a.rs", &text)], &[]).is_empty());
        assert!(check_functions(&[SourceFile::sample("proxy/tests/a.rs", &function_of(100))], &[]).is_empty());
    }

    #[test]
    fn a_known_long_function_may_only_shrink() {
        let file = [SourceFile::sample("a.rs", &function_of(90))];
        assert!(check_functions(&file, &[("a.rs", "long", 90)]).is_empty());
        assert!(check_functions(&file, &[("a.rs", "long", 89)])[0].contains("89 are allowed"));
        assert!(check_functions(&file, &[("a.rs", "long", 91)])[0].contains("has shrunk to 90 lines"));
        let short = [SourceFile::sample("a.rs", &function_of(10))];
        assert!(check_functions(&short, &[("a.rs", "long", 90)])[0].contains("is gone or short enough"));
    }

    #[test]
    fn a_file_over_the_limit_is_refused_and_a_known_one_may_only_shrink() {
        let file = [SourceFile::sample("a.rs", &"\n".repeat(FILE_LINES + 1))];
        assert!(check_files(&file, &[])[0].contains("601 lines, 600 are allowed"));
        assert!(check_files(&file, &[("a.rs", 601)]).is_empty());
        assert!(check_files(&file, &[("a.rs", 700)])[0].contains("has shrunk"));
        assert!(check_files(&file, &[("a.rs", 601), ("b.rs", 700)])[0].contains("is gone"));
    }
}
