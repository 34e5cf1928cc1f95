//! Where does each fixture come from? A folder of fixtures has a README.md that names every file and how to remake it.

use super::tree::SourceFile;

/// Files under a folder called `fixtures` that its README.md does not name.
pub(crate) fn problems(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let Some(folder) = fixture_folder(&file.path) else { continue };
        let readme = format!("{folder}/README.md");
        if file.path == readme {
            continue;
        }
        let known = files.iter().find(|other| other.path == readme).and_then(|other| other.text.as_deref());
        if !known.is_some_and(|text| text.contains(file.name())) {
            problems.push(format!("{}: {readme} does not name it: add a row with its recipe", file.path));
        }
    }
    problems
}

/// The part of a path up to its folder `fixtures`, if it has one.
fn fixture_folder(path: &str) -> Option<&str> {
    let (folders, _) = path.rsplit_once('/')?;
    let mut end = 0;
    for part in folders.split('/') {
        end += part.len();
        if part == "fixtures" {
            return Some(&path[..end]);
        }
        end += 1;
    }
    None
}

#[cfg(test)]
mod self_tests {
    use super::*;

    #[test]
    fn a_fixture_without_a_row_is_refused() {
        let files = [
            SourceFile::sample("lab/fixtures/README.md", "| ntfs.img.gz | 100 KiB | make.sh |"),
            SourceFile::sample("lab/fixtures/ntfs.img.gz", ""),
            SourceFile::sample("lab/fixtures/deep/ext4.img.gz", ""),
            SourceFile::sample("vmdk/tests/fixtures/a.vmdk", ""),
            SourceFile::sample("vmdk/src/fixtures.rs", ""),
        ];
        let problems = problems(&files);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("lab/fixtures/deep/ext4.img.gz: lab/fixtures/README.md"));
        assert!(problems[1].starts_with("vmdk/tests/fixtures/a.vmdk: vmdk/tests/fixtures/README.md"));
    }
}
