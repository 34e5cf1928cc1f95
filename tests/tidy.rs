//! What neither the compiler nor clippy sees: arrows between crates, leftovers, sizes, provenance of fixtures.
//!
//! Each rule prints file, line and what to do instead, and has a test of its own that it can fail.

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/fixtures.rs"]
mod fixtures;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/tree.rs"]
mod tree;
#[path = "tidy/words.rs"]
mod words;

use tree::SourceFile;

/// Runs a rule over the whole tree.
fn check(rule: impl Fn(&[SourceFile]) -> Vec<String>) {
    let files = tree::read(&tree::top()).unwrap_or_else(|err| panic!("the source tree cannot be read: {err}"));
    assert!(files.iter().any(|file| file.path == "tests/tidy.rs"), "this is not the source tree: {:?}", tree::top());
    report(&rule(&files));
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "{} to put right:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn arrows_between_crates_point_down() {
    report(&arrows::problems(&arrows::metadata(&tree::top()).unwrap()));
}

#[test]
fn nothing_is_left_unfinished() {
    check(words::leftover_problems);
}

#[test]
fn functions_stay_short() {
    check(sizes::function_problems);
}

#[test]
fn files_stay_short() {
    check(sizes::file_problems);
}

#[test]
fn fixtures_have_a_recipe() {
    check(fixtures::problems);
}

#[test]
fn no_file_names_one_machine() {
    check(words::private_problems);
}

#[test]
fn tests_are_named_for_behaviour() {
    check(words::test_name_problems);
}
