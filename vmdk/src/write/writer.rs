use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use blockdev::{ByteLen, ByteOffset, SECTOR_SIZE, Sectors};

use super::files::{Files, failed, remove};
use super::flat::FlatBody;
use super::layout::{DESCRIPTOR_SECTORS, Layout};
use super::sparse::SparseBody;
use super::{CreateOptions, GRAIN_LEN, Subformat};
use crate::convert::{div_rem, div_up, sectors_to_bytes, to_u64, to_usize};
use crate::{Descriptor, ExtentLine, MAX_EXTENTS, NameError, PlainName, VmdkError};

/// A new image that is being written. Any number of threads may write, each its own range.
///
/// The files are no image until [`finish`](Self::finish) succeeds: the descriptor, or the header around it, comes last.
#[derive(Debug)]
pub struct ImageWriter {
    dir: PathBuf,
    subformat: Subformat,
    capacity: u64,
    descriptor: Descriptor,
    /// The files that hold data, in the order of the disk; for one-file images the image itself.
    files: Files,
    /// The descriptor's own file, unless it is inside the data's.
    descriptor_file: Option<Files>,
    bodies: Vec<Body>,
    write_failed: AtomicBool,
}

#[derive(Debug)]
enum Body {
    Flat(FlatBody),
    Sparse(SparseBody),
}

impl ImageWriter {
    /// Makes the files of a new image in `dir`; no existing file is overwritten. `file_name` is that of the descriptor,
    /// such as `x.vmdk`.
    ///
    /// # Errors
    /// The name is no plain name that ends in `.vmdk`, the capacity does not fit the form, a file exists, or the
    /// operating system refuses.
    pub fn create(dir: &Path, file_name: &str, options: &CreateOptions) -> Result<Self, VmdkError> {
        let (name, stem) = check_name(file_name)?;
        let plan = Plan::new(dir, file_name, &stem, options)?;
        let files = Files::create(plan.paths)?;
        let descriptor_file = match options.subformat {
            Subformat::MonolithicSparse => None,
            _ => match Files::create(vec![dir.join(name.as_str())]) {
                Ok(file) => Some(file),
                Err(e) => {
                    remove(files.paths());
                    return Err(e);
                }
            },
        };
        let writer = Self {
            dir: dir.to_owned(),
            subformat: options.subformat,
            capacity: plan.capacity,
            descriptor: plan.descriptor,
            files,
            descriptor_file,
            bodies: plan.bodies,
            write_failed: AtomicBool::new(false),
        };
        match writer.set_lengths() {
            Ok(()) => Ok(writer),
            Err(e) => {
                writer.discard();
                Err(e)
            }
        }
    }

    /// Whether [`create`](Self::create) could make such an image, as far as name and size tell. Makes nothing.
    ///
    /// # Errors
    /// The name is no plain name that ends in `.vmdk`, or the capacity does not fit the form.
    pub fn check(file_name: &str, options: &CreateOptions) -> Result<(), VmdkError> {
        let (_, stem) = check_name(file_name)?;
        Plan::new(Path::new(""), file_name, &stem, options).map(drop)
    }

    /// The descriptor that [`finish`](Self::finish) will write.
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Writes `data` at byte `at`. Both the place and the length are multiples of 64 KiB, except that the last write may
    /// end with the disk. Grains (in flat files: blocks) of zeros are not stored. Writing a range again replaces it.
    ///
    /// Long writes from memory that begins at a multiple of 4096 bytes go past the page cache, which is much faster.
    ///
    /// # Errors
    /// The range is not aligned or passes the end of the disk (nothing was written then), or writing failed (the image
    /// can no longer be finished then).
    pub fn write_at(&self, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
        self.check_range(at, data)?;
        let piece_len = self.subformat.piece_len(self.capacity);
        let (mut at, mut rest) = (at.0, data);
        while !rest.is_empty() {
            let (number, inside) = div_rem(at, piece_len);
            let len = to_usize(piece_len.saturating_sub(inside)).min(rest.len());
            let (now, later) = rest.split_at(len);
            if let Err(e) = self.write_piece(to_usize(number), inside, now) {
                self.write_failed.store(true, Ordering::Release);
                return Err(e);
            }
            at = at.saturating_add(to_u64(len));
            rest = later;
        }
        Ok(())
    }

    fn write_piece(&self, number: usize, inside: u64, data: &[u8]) -> Result<(), VmdkError> {
        let file = self.files.get(number)?;
        let written = match self.bodies.get(number) {
            Some(Body::Flat(flat)) => flat.write(&file, inside, data),
            Some(Body::Sparse(sparse)) => sparse.write(&file, inside / GRAIN_LEN, data),
            None => Ok(()), // there is a piece for every byte below the capacity
        };
        written.map_err(failed("write", self.files.path(number)))
    }

    fn check_range(&self, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
        let wrong = |field, actual, expected| Err(VmdkError::Request { field, actual, expected });
        let Some(end) = at.checked_add(ByteLen::of(data)).map(|end| end.0).filter(|end| *end <= self.capacity) else {
            return wrong("the start of a write", at.0, "a range that ends within the disk");
        };
        if !at.0.is_multiple_of(GRAIN_LEN) {
            return wrong("the start of a write", at.0, "a multiple of 65536");
        }
        if !end.is_multiple_of(GRAIN_LEN) && end != self.capacity {
            return wrong("the end of a write", end, "a multiple of 65536, or the end of the disk");
        }
        Ok(())
    }

    /// Writes the tables and the descriptor, and waits until everything is on disk. Answers all files of the image, the
    /// descriptor first.
    ///
    /// # Errors
    /// Writing failed, now or earlier. The files stay as they are; they are no image.
    pub fn finish(self) -> Result<Vec<PathBuf>, VmdkError> {
        let text = self.descriptor.to_string();
        if self.write_failed.load(Ordering::Acquire) {
            let file = self.descriptor_file.as_ref().unwrap_or(&self.files).path(0).display().to_string();
            return Err(VmdkError::WriteFailed { file });
        }
        let text_inside = self.descriptor_file.is_none().then_some(text.as_str());
        // All files in each step: what one file waits for, the system does for all of them, and a large disk has thousands.
        self.for_each_file(|body, file| body.write_tables(file, text_inside))?;
        if self.subformat.is_sparse() {
            self.for_each_file(|_, file| file.sync_all())?;
            self.for_each_file(Body::write_header)?;
        }
        self.for_each_file(|_, file| file.sync_all())?;
        if let Some(files) = &self.descriptor_file {
            let file = files.get(0)?;
            let file = file.file();
            let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.sync_all());
            written.map_err(failed("write", files.path(0)))?;
        }
        let dir = if self.dir.as_os_str().is_empty() { Path::new(".") } else { &self.dir };
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write", dir))?;
        Ok(self.all_paths())
    }

    fn for_each_file(&self, step: impl Fn(&Body, &File) -> io::Result<()>) -> Result<(), VmdkError> {
        for (number, body) in self.bodies.iter().enumerate() {
            let file = self.files.get(number)?;
            step(body, file.file()).map_err(failed("write", self.files.path(number)))?;
        }
        Ok(())
    }

    /// Gives the image up and removes its files, as far as they can be removed.
    pub fn discard(self) {
        remove(&self.all_paths());
    }

    fn all_paths(&self) -> Vec<PathBuf> {
        let descriptor = self.descriptor_file.iter().flat_map(Files::paths);
        descriptor.chain(self.files.paths()).cloned().collect()
    }

    fn set_lengths(&self) -> Result<(), VmdkError> {
        for (number, line) in self.descriptor.extents.iter().enumerate() {
            if !self.subformat.is_sparse() {
                let file = self.files.get(number)?;
                let set = file.file().set_len(sectors_to_bytes(line.sectors.0));
                set.map_err(failed("set the length of", self.files.path(number)))?;
            }
        }
        Ok(())
    }
}

/// What is to be made, checked in full before the first file is.
struct Plan {
    capacity: u64,
    descriptor: Descriptor,
    bodies: Vec<Body>,
    paths: Vec<PathBuf>,
}

impl Plan {
    fn new(dir: &Path, file_name: &str, stem: &str, options: &CreateOptions) -> Result<Self, VmdkError> {
        let subformat = options.subformat;
        let capacity = sectors_to_bytes(options.sectors()?.0);
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
            let piece = PlainName::new(&subformat.piece_name(stem, number)).map_err(refused(file_name))?;
            descriptor.extents.push(extent_line(subformat, len, &piece));
            bodies.push(Body::new(subformat, len)?);
            paths.push(dir.join(piece.as_str()));
        }
        check_fits(subformat, &descriptor, file_name)?;
        Ok(Self { capacity, descriptor, bodies, paths })
    }
}

impl Body {
    fn new(subformat: Subformat, len: u64) -> Result<Self, VmdkError> {
        if !subformat.is_sparse() {
            return Ok(Self::Flat(FlatBody::new(len)));
        }
        let with_descriptor = subformat == Subformat::MonolithicSparse;
        Ok(Self::Sparse(SparseBody::new(Layout::new(Sectors(len / SECTOR_SIZE), with_descriptor)?)))
    }

    /// Writes all but the header.
    fn write_tables(&self, file: &File, text_inside: Option<&str>) -> io::Result<()> {
        let Self::Sparse(sparse) = self else { return Ok(()) };
        sparse.finish_tables(file)?;
        text_inside.map_or(Ok(()), |text| SparseBody::write_descriptor(file, text))
    }

    /// Writes the header, once all else is on disk, so that a file with a header is whole.
    fn write_header(&self, file: &File) -> io::Result<()> {
        if let Self::Sparse(sparse) = self { sparse.write_header(file) } else { Ok(()) }
    }
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
    let len = to_u64(descriptor.to_string().len());
    if subformat == Subformat::MonolithicSparse && len > sectors_to_bytes(DESCRIPTOR_SECTORS) {
        return Err(VmdkError::Unsupported {
            file: file_name.to_owned(),
            field: "the length of the descriptor in bytes",
            actual: len,
            expected: "at most 10240",
        });
    }
    Ok(())
}
