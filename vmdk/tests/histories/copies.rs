//! Histories that are copied to new images, whole and as the difference to what they once were.

use std::ops::ControlFlow;
use std::path::Path;

use blockdev::ReadAt;
use vmdk_rs::{CreateOptions, Image, ImageWriter, ParentLink, PlainName, Subformat, copy, copy_difference, open_path};

use crate::build::build;
use crate::check::bytes_problem;
use crate::history::History;
use crate::rng::Rng;

const FORMS: [Subformat; 6] = [
    Subformat::MonolithicFlat,
    Subformat::TwoGbMaxExtentFlat,
    Subformat::MonolithicSparse,
    Subformat::TwoGbMaxExtentSparse,
    Subformat::VmfsFlat,
    Subformat::StreamOptimized,
];

fn written(dir: &Path, name: &str, options: &CreateOptions, fill: impl FnOnce(&ImageWriter)) -> Image {
    let writer = ImageWriter::create(dir, name, options).unwrap();
    fill(&writer);
    open_path(&writer.finish().unwrap()[0]).unwrap()
}

/// What is wrong with a copy of a history, or with a delta from some earlier state of it.
pub(crate) fn problem(history: &History, seed: u64) -> Option<String> {
    let (mut rng, dir) = (Rng::new(seed), tempfile::tempdir().unwrap());
    let go_on = |_| ControlFlow::Continue(());
    let built = build(history);
    let image = built.open().unwrap();
    let form = rng.pick(&FORMS);
    let options = CreateOptions::new(form, image.size());
    let whole = written(dir.path(), "whole.vmdk", &options, |writer| copy(&image, writer, &go_on).unwrap());
    if let Some(problem) = bytes_problem(&whole, &built.model) {
        return Some(format!("a copy as {form:?}: {problem}"));
    }

    let layers = history.layers[..rng.within(1, history.layers.len())].to_vec();
    let before = build(&History { layers }).open().unwrap();
    let (below, form) = (rng.pick(&FORMS), rng.pick(&[Subformat::MonolithicSparse, Subformat::TwoGbMaxExtentSparse]));
    let options = CreateOptions::new(below, before.size());
    let base = written(dir.path(), "base.vmdk", &options, |writer| copy(&before, writer, &go_on).unwrap());
    let link = ParentLink { file: PlainName::new("base.vmdk").unwrap(), content_id: base.descriptor().content_id };
    let options = CreateOptions { parent: Some(link), ..CreateOptions::new(form, image.size()) };
    let difference = |writer: &ImageWriter| copy_difference(&image, &base, writer, &go_on).unwrap();
    let delta = written(dir.path(), "delta.vmdk", &options, difference);
    bytes_problem(&delta, &built.model).map(|problem| format!("a delta as {form:?} over {below:?}: {problem}"))
}
