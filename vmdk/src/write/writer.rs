use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use blockdev::{ByteLen, ByteOffset};

use super::files::{Files, failed, remove};
use super::flat::FlatBody;
use super::plan::Plan;
use super::sparse::{GrainState, Piece, SparseBody, difference, states_of};
use super::stream::{CompressionLevel, PackedGrains, StreamWriter};
use super::{CreateOptions, GRAIN_LEN, Subformat};
use crate::convert::{div_rem, sectors_to_bytes, to_u64, to_usize};
use crate::{Descriptor, PlainName, VmdkError};

/// A new image that is being written. Any number of threads may write, each its own range; a streamOptimized image takes
/// its disk in order.
///
/// The files are no image until [`finish`](Self::finish) succeeds: the descriptor, the header around it, or the end of the
/// stream comes last.
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

/// How one file holds its part of the disk.
#[derive(Debug)]
pub(super) enum Body {
    Flat(FlatBody),
    Sparse(SparseBody),
    Stream(StreamWriter<File>),
}

/// A part of the disk that is on its way into an image. See [`crate::CopyTarget`].
#[derive(Debug)]
pub struct Prepared {
    /// Which file.
    number: usize,
    /// Where in its part of the disk.
    inside: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Bytes that have their place.
    Flat,
    /// What is to be done with each grain, before they have places.
    Grains(Vec<GrainState>),
    /// The places of grains.
    Places(Vec<Piece>),
    /// Compressed grains, before they are written.
    Packed(PackedGrains),
    /// Nothing is left.
    Done,
}

impl ImageWriter {
    /// Makes the files of a new image in `dir`; no existing file is overwritten. `file_name` is that of the descriptor,
    /// such as `x.vmdk`.
    ///
    /// # Errors
    /// The name is no plain name that ends in `.vmdk`, the capacity does not fit the form, a file exists, or the
    /// operating system refuses.
    pub fn create(dir: &Path, file_name: &str, options: &CreateOptions) -> Result<Self, VmdkError> {
        Self::create_compressed(dir, file_name, options, CompressionLevel::default())
    }

    /// As [`create`](Self::create), with a level of compression, which matters for streamOptimized images only.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_compressed(
        dir: &Path,
        file_name: &str,
        options: &CreateOptions,
        level: CompressionLevel,
    ) -> Result<Self, VmdkError> {
        let plan = Plan::new(dir, file_name, options)?;
        let files = Files::create(plan.paths)?;
        let descriptor_file = if options.subformat.is_one_file() {
            None
        } else {
            let made = Files::create(vec![dir.join(plan.name.as_str())]);
            Some(made.inspect_err(|_| remove(files.paths()))?)
        };
        let mut writer = Self {
            dir: dir.to_owned(),
            subformat: options.subformat,
            capacity: plan.capacity,
            descriptor: plan.descriptor,
            files,
            descriptor_file,
            bodies: plan.bodies,
            write_failed: AtomicBool::new(false),
        };
        let begun = match options.subformat {
            Subformat::StreamOptimized => writer.begin_stream(&plan.name, options, level),
            _ => writer.set_lengths(),
        };
        match begun {
            Ok(()) => Ok(writer),
            Err(e) => {
                writer.discard();
                Err(e)
            }
        }
    }

    fn begin_stream(
        &mut self,
        name: &PlainName,
        options: &CreateOptions,
        level: CompressionLevel,
    ) -> Result<(), VmdkError> {
        let file = self.files.get(0)?.file().try_clone().map_err(failed("open", self.files.path(0)))?;
        let stream = StreamWriter::new(file, name, options)?.with_level(level);
        self.descriptor = stream.descriptor().clone();
        self.bodies.push(Body::Stream(stream));
        Ok(())
    }

    /// Whether [`create`](Self::create) could make such an image, as far as name and size tell. Makes nothing.
    ///
    /// # Errors
    /// The name is no plain name that ends in `.vmdk`, or the capacity does not fit the form.
    pub fn check(file_name: &str, options: &CreateOptions) -> Result<(), VmdkError> {
        Plan::new(Path::new(""), file_name, options).map(drop)
    }

    /// The descriptor that [`finish`](Self::finish) will write.
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The size of the disk.
    #[must_use]
    pub const fn capacity(&self) -> ByteLen {
        ByteLen(self.capacity)
    }

    /// Writes `data` at byte `at`. Both the place and the length are multiples of 64 KiB, except that the last write may
    /// end with the disk. Grains (in flat files: blocks) of zeros are not stored; in a delta they are marked, and hide the
    /// parent. Writing a range again replaces it, except in a stream, which takes a disk in its order.
    ///
    /// Long writes from memory that begins at a multiple of 4096 bytes go past the page cache, which is much faster.
    ///
    /// # Errors
    /// The range is not aligned or passes the end of the disk (nothing was written then), or writing failed (the image
    /// can no longer be finished then).
    pub fn write_at(&self, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
        check_range(self.capacity, at, data)?;
        let (mut at, mut rest) = (at.0, data);
        while !rest.is_empty() {
            let len = self.left_of_piece(at).min(rest.len());
            let (now, later) = rest.split_at(len);
            let mut prepared = self.prepare_part(ByteOffset(at), now)?;
            self.place_part(&mut prepared, now.len())?;
            self.store_part(&prepared, now)?;
            at = at.saturating_add(to_u64(len));
            rest = later;
        }
        Ok(())
    }

    /// As [`write_at`](Self::write_at), for a delta whose parent holds `parent` there: grains that the parent has already are not
    /// written. Answers the bytes of the grains that were stored.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at); `parent` must be of the length of `data`, and the image a delta.
    pub fn write_difference_at(&self, at: ByteOffset, data: &[u8], parent: &[u8]) -> Result<u64, VmdkError> {
        let wrong = |field, actual, expected| Err(VmdkError::Request { field, actual, expected });
        if data.len() != parent.len() {
            return wrong("the length of the parent's bytes", to_u64(parent.len()), "that of the bytes to be written");
        }
        if self.descriptor.parent_content_id.is_none() {
            return wrong("the number of parents", 0, "one, as only the difference to it is written");
        }
        check_range(self.capacity, at, data)?;
        let (mut at, mut rest, mut parent, mut stored) = (at.0, data, parent, 0u64);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.left_of_piece(at).min(rest.len()));
            let (under, later_parent) = parent.split_at(now.len());
            let mut prepared = self.prepare_with(ByteOffset(at), now, |data| {
                let states = difference(data, under);
                let grains = data.chunks(to_usize(GRAIN_LEN)).zip(&states);
                let kept =
                    grains.filter(|(_, state)| **state == GrainState::Data).map(|(grain, _)| to_u64(grain.len()));
                stored = kept.fold(stored, u64::saturating_add);
                states
            })?;
            self.place_part(&mut prepared, now.len())?;
            self.store_part(&prepared, now)?;
            at = at.saturating_add(to_u64(now.len()));
            (rest, parent) = (later, later_parent);
        }
        Ok(stored)
    }

    /// How many bytes there are from byte `at` to the end of the file that holds it.
    fn left_of_piece(&self, at: u64) -> usize {
        let piece_len = self.subformat.piece_len(self.capacity);
        let (_, inside) = div_rem(at, piece_len);
        to_usize(piece_len.saturating_sub(inside))
    }

    /// Does what can be done of a write by any thread in any order; `data` lies in one file.
    pub(crate) fn prepare_part(&self, at: ByteOffset, data: &[u8]) -> Result<Prepared, VmdkError> {
        self.prepare_with(at, data, states_of)
    }

    /// The same, if `states` says what is to be done with each grain. Streams and flat files do not ask.
    pub(crate) fn prepare_with(
        &self,
        at: ByteOffset,
        data: &[u8],
        states: impl FnOnce(&[u8]) -> Vec<GrainState>,
    ) -> Result<Prepared, VmdkError> {
        check_range(self.capacity, at, data)?;
        let (number, inside) = div_rem(at.0, self.subformat.piece_len(self.capacity));
        let number = to_usize(number);
        if data.len() > self.left_of_piece(at.0) {
            let expected = "a range in one piece of 2047 MiB";
            return Err(VmdkError::Request { field: "the length of a write", actual: to_u64(data.len()), expected });
        }
        let work = match self.bodies.get(number) {
            Some(Body::Flat(_)) => Work::Flat,
            Some(Body::Sparse(_)) => Work::Grains(states(data)),
            Some(Body::Stream(stream)) => Work::Packed(stream.prepare(at, data)?),
            None => Work::Done, // there is a body for every byte below the capacity
        };
        Ok(Prepared { number, inside, work })
    }

    /// Gives what was prepared its place. Called in the order of the disk, files come out in that order.
    pub(crate) fn place_part(&self, prepared: &mut Prepared, len: usize) -> Result<(), VmdkError> {
        match (self.bodies.get(prepared.number), &prepared.work) {
            (Some(Body::Sparse(sparse)), Work::Grains(states)) => {
                let placed = self.files.get(prepared.number).and_then(|file| {
                    let placed = sparse.place(&file, prepared.inside / GRAIN_LEN, states, len);
                    placed.map_err(failed("write", self.files.path(prepared.number)))
                });
                prepared.work = Work::Places(self.noted(placed)?);
            }
            (Some(Body::Stream(stream)), Work::Packed(packed)) => {
                stream.append(packed)?; // which knows itself whether it can go on
                prepared.work = Work::Done;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes what has its place, by any thread in any order.
    pub(crate) fn store_part(&self, prepared: &Prepared, data: &[u8]) -> Result<(), VmdkError> {
        let stored = self.files.get(prepared.number).and_then(|file| {
            let stored = match (self.bodies.get(prepared.number), &prepared.work) {
                (Some(Body::Flat(flat)), Work::Flat) => flat.write(&file, prepared.inside, data),
                (_, Work::Places(places)) => SparseBody::store(&file, places, data),
                _ => Ok(()),
            };
            stored.map_err(failed("write", self.files.path(prepared.number)))
        });
        self.noted(stored)
    }

    /// Remembers a failure: what was to be written then is missing for good.
    fn noted<T>(&self, done: Result<T, VmdkError>) -> Result<T, VmdkError> {
        done.inspect_err(|_| self.write_failed.store(true, Ordering::Release))
    }

    /// Writes the tables and the descriptor, and waits until everything is on disk. Answers all files of the image, the
    /// descriptor first.
    ///
    /// # Errors
    /// Writing failed, now or earlier. The files stay as they are; they are no image.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, VmdkError> {
        let text = self.descriptor.to_string();
        if self.write_failed.load(Ordering::Acquire) {
            let file = self.descriptor_file.as_ref().unwrap_or(&self.files).path(0).display().to_string();
            return Err(VmdkError::WriteFailed { file });
        }
        if self.subformat == Subformat::StreamOptimized {
            for body in self.bodies.drain(..) {
                if let Body::Stream(stream) = body {
                    stream.finish()?;
                }
            }
        }
        let text_inside = self.descriptor_file.is_none().then_some(text.as_str());
        // All files in each step: what one file waits for, the system does for all of them, and a large disk has thousands.
        self.for_each_file(|body, file| body.write_tables(file, text_inside))?;
        if self.subformat.is_sparse() {
            self.sync_files()?;
            self.for_each_file(Body::write_header)?;
        }
        self.sync_files()?;
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

    fn sync_files(&self) -> Result<(), VmdkError> {
        for (number, path) in self.files.paths().iter().enumerate() {
            self.files.get(number)?.file().sync_all().map_err(failed("write", path))?;
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
            if matches!(self.bodies.get(number), Some(Body::Flat(_))) {
                let file = self.files.get(number)?;
                let set = file.file().set_len(sectors_to_bytes(line.sectors.0));
                set.map_err(failed("set the length of", self.files.path(number)))?;
            }
        }
        Ok(())
    }
}

/// Checks that a write begins at a grain and ends at one, or with the disk.
pub(super) fn check_range(capacity: u64, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
    let wrong = |field, actual, expected| Err(VmdkError::Request { field, actual, expected });
    let Some(end) = at.checked_add(ByteLen::of(data)).map(|end| end.0).filter(|end| *end <= capacity) else {
        return wrong("the start of a write", at.0, "a range that ends within the disk");
    };
    if !at.0.is_multiple_of(GRAIN_LEN) {
        return wrong("the start of a write", at.0, "a multiple of 65536");
    }
    if !end.is_multiple_of(GRAIN_LEN) && end != capacity {
        return wrong("the end of a write", end, "a multiple of 65536, or the end of the disk");
    }
    Ok(())
}

impl Body {
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
