//! What is to be made, checked in full before the first file is.

use std::io;
use std::path::{Path, PathBuf};

use blockdev::{SECTOR_SIZE, Sectors};

use super::flat::FlatBody;
use super::layout::{DESCRIPTOR_SECTORS, Layout};
use super::sparse::SparseBody;
use super::stream::StreamWriter;
use super::writer::Body;
use super::{CreateOptions, Subformat};
use crate::convert::{div_up, sectors_to_bytes, to_u64, to_usize};
use crate::{Descriptor, ExtentLine, MAX_EXTENTS, NameError, PlainName, VmdkError};

pub(super) struct Plan {
    pub(super) name: PlainName,
    pub(super) capacity: u64,
    pub(super) descriptor: Descriptor,
    /// One for each file; none for a stream, which begins when its file is there.
    pub(super) bodies: Vec<Body>,
    /// The files that hold data.
    pub(super) paths: Vec<PathBuf>,
}

impl Plan {
    pub(super) fn new(dir: &Path, file_name: &str, options: &CreateOptions) -> Result<Self, VmdkError> {
        let (name, stem) = check_name(file_name)?;
        let subformat = options.subformat;
        let capacity = sectors_to_bytes(options.sectors()?.0);
        if options.parent.is_some() && !subformat.can_be_delta() {
            let dialect = format!("{} with a parent", subformat.create_type());
            return Err(VmdkError::Dialect { file: file_name.to_owned(), dialect });
        }
        if subformat == Subformat::StreamOptimized {
            let descriptor = StreamWriter::new(io::sink(), &name, options)?.descriptor().clone();
            let paths = vec![dir.join(name.as_str())];
            return Ok(Self { name, capacity, descriptor, bodies: Vec::new(), paths });
        }
        let piece_len = subformat.piece_len(capacity);
        let count = to_usize(div_up(capacity, piece_len));
        if count > MAX_EXTENTS {
            return Err(VmdkError::Request {
                field: "the capacity in bytes",
                actual: capacity,
                expected: "8 TiB at most in pieces of 2047 MiB",
            });
        }
        let mut descriptor = options.descriptor();
        let (mut bodies, mut paths) = (Vec::new(), Vec::new());
        for number in 1..=count {
            let before = piece_len.saturating_mul(to_u64(number.saturating_sub(1)));
            let len = capacity.saturating_sub(before).min(piece_len);
            let piece = PlainName::new(&subformat.piece_name(&stem, number)).map_err(refused(file_name))?;
            descriptor.extents.push(extent_line(subformat, len, &piece));
            bodies.push(body(options, len)?);
            paths.push(dir.join(piece.as_str()));
        }
        check_fits(subformat, &descriptor, file_name)?;
        Ok(Self { name, capacity, descriptor, bodies, paths })
    }
}

fn body(options: &CreateOptions, len: u64) -> Result<Body, VmdkError> {
    if !options.subformat.is_sparse() {
        return Ok(Body::Flat(FlatBody::new(len)));
    }
    let (inside, delta) = (options.subformat.is_one_file(), options.parent.is_some());
    Ok(Body::Sparse(SparseBody::new(Layout::new(Sectors(len / SECTOR_SIZE), inside, delta)?)))
}

fn extent_line(subformat: Subformat, len: u64, piece: &PlainName) -> ExtentLine {
    let mut line = ExtentLine::rw(Sectors(len / SECTOR_SIZE), subformat.extent_type(), piece.as_str());
    if matches!(subformat, Subformat::MonolithicFlat | Subformat::TwoGbMaxExtentFlat) {
        line.offset = Some(Sectors(0)); // VMFS and sparse extents have none
    }
    line
}

fn refused(name: &str) -> impl FnOnce(NameError) -> VmdkError + '_ {
    |source| VmdkError::Name { name: name.to_owned(), source }
}

fn check_name(file_name: &str) -> Result<(PlainName, String), VmdkError> {
    let name = PlainName::new(file_name).map_err(refused(file_name))?;
    match file_name.strip_suffix(".vmdk").filter(|stem| !stem.is_empty()) {
        Some(stem) => Ok((name, stem.to_owned())),
        None => Err(VmdkError::Request {
            field: "the length of the file name before .vmdk",
            actual: 0,
            expected: "a name that ends in .vmdk",
        }),
    }
}

/// A descriptor inside a sparse file has 20 sectors.
fn check_fits(subformat: Subformat, descriptor: &Descriptor, file_name: &str) -> Result<(), VmdkError> {
    let len = descriptor.to_string().len();
    if subformat.is_one_file() && to_u64(len) > sectors_to_bytes(DESCRIPTOR_SECTORS) {
        return Err(descriptor_too_long(file_name, len, "at most 10240"));
    }
    Ok(())
}

pub(super) fn descriptor_too_long(file_name: &str, len: usize, expected: &'static str) -> VmdkError {
    VmdkError::Unsupported {
        file: file_name.to_owned(),
        field: "the length of the descriptor in bytes",
        actual: to_u64(len),
        expected,
    }
}
