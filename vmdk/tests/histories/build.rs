//! From a history to the files of a chain, in memory. No code is shared with the crate that reads them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use blockdev::{MemDisk, ReadAt};
use vmdk_rs::{FnGate, Gate, Image, PlainName, VmdkError};

use crate::history::{Extent, History, Kind, Layer};
use crate::hosted::{Shape, cowd, hosted};
use crate::model::{Model, SECTOR, State};
use crate::rng::Rng;
use crate::sesparse::sesparse;
use crate::sheet::Grains;
use crate::stream::stream;

/// The files of a chain by name, and what it reads as.
pub(crate) struct Built {
    files: HashMap<String, Arc<dyn ReadAt>>,
    top: String,
    pub(crate) model: Model,
}

impl Built {
    pub(crate) fn open(&self) -> Result<Image, VmdkError> {
        let gate = FnGate::new(|name: &PlainName| {
            let file = self.files.get(name.as_str()).map(Arc::clone);
            file.ok_or_else(|| VmdkError::Denied { name: name.to_string() })
        });
        Image::open(gate.open(&PlainName::new(&self.top).unwrap())?, &self.top, &gate)
    }
}

pub(crate) fn build(history: &History) -> Built {
    let mut built = Built { files: HashMap::new(), top: String::new(), model: Model::default() };
    let mut parent = None;
    for (number, layer) in history.layers.iter().enumerate() {
        let states = built.model.put(number, layer);
        let name = if number == 0 { "disk".to_owned() } else { format!("disk-{number:06}") };
        let files = Files { layer, name: &name, model: &built.model, parent };
        parent = Some((files.content_id(), format!("{name}.vmdk")));
        let files = files.all(&states);
        built.files.extend(files.into_iter().map(|(name, bytes)| (name, Arc::new(MemDisk::new(bytes)) as _)));
    }
    built.top = parent.unwrap().1;
    built
}

/// The files of one layer.
struct Files<'a> {
    layer: &'a Layer,
    name: &'a str,
    model: &'a Model,
    /// Content ID and name.
    parent: Option<(u32, String)>,
}

/// Sectors before the first flat extent of a shared file, and between them.
const GAP: usize = 3;

impl Files<'_> {
    /// Any number but the two that mean "no parent".
    fn content_id(&self) -> u32 {
        u32::try_from(self.layer.layout & 0x7fff_ffff).unwrap()
    }

    fn all(&self, states: &[Vec<State>]) -> Vec<(String, Vec<u8>)> {
        let mut rng = Rng::new(self.layer.layout);
        let text = self.descriptor(&mut rng);
        let inside = self.layer.embedded.then_some(text.as_str());
        let (mut files, mut shared) = (Vec::new(), Vec::new());
        for (number, (start, extent)) in self.layer.starts().zip(&self.layer.extents).enumerate() {
            let bytes = &self.model.bytes[start * SECTOR..(start + extent.len) * SECTOR];
            let grains = |grain| Grains { bytes, states: &states[number], grain };
            let file = match extent.kind {
                Kind::Zero => continue,
                Kind::Flat { shared: true } => {
                    shared.resize(shared.len() + GAP * SECTOR, 0xee);
                    shared.extend_from_slice(bytes);
                    continue;
                }
                Kind::Flat { shared: false } => bytes.to_vec(),
                Kind::Hosted { grain, entries, two, zeroed, damaged } => {
                    hosted(&mut rng, &grains(grain), Shape { entries, two, zeroed, damaged }, inside)
                }
                Kind::Cowd { grain } => cowd(&mut rng, &grains(grain)),
                Kind::SeSparse { grain, table } => sesparse(&mut rng, &grains(grain), table),
                Kind::Stream { grain, entries, in_front } => {
                    stream(&mut rng, &grains(grain), entries, in_front, inside)
                }
            };
            files.push((self.extent_name(number, extent), file));
        }
        files.push((format!("{}-shared.bin", self.name), shared));
        if !self.layer.embedded {
            files.push((format!("{}.vmdk", self.name), text.into_bytes()));
        }
        files
    }

    fn extent_name(&self, number: usize, extent: &Extent) -> String {
        match extent.kind {
            Kind::Flat { shared: true } => format!("{}-shared.bin", self.name),
            _ if self.layer.embedded => format!("{}.vmdk", self.name),
            _ => format!("{} e{number:03}.vmdk", self.name),
        }
    }

    fn descriptor(&self, rng: &mut Rng) -> String {
        let mut text = format!("# Disk DescriptorFile\nversion=1\nCID={:08x}\n", self.content_id());
        match &self.parent {
            None => text += "parentCID=ffffffff\n",
            Some((content_id, name)) => {
                let folder = rng.pick(&["", "", "/vmfs/volumes/5f-1/vm/", "[store 1] vm/", "C:\\vm\\"]);
                write!(text, "parentCID={content_id:08x}\nparentFileNameHint=\"{folder}{name}\"\n").unwrap();
            }
        }
        write!(text, "createType=\"{}\"\n\n", self.layer.form).unwrap();
        let mut shared = 0;
        for (number, extent) in self.layer.extents.iter().enumerate() {
            let (len, name) = (extent.len, self.extent_name(number, extent));
            let access = rng.pick(&["RW", "RW", "RDONLY"]);
            let line = match extent.kind {
                Kind::Zero => format!("{access} {len} ZERO"),
                Kind::Flat { shared: true } => {
                    let offset = shared + GAP;
                    shared = offset + len;
                    format!("{access} {len} FLAT \"{name}\" {offset}")
                }
                Kind::Flat { .. } if self.layer.form == "vmfs" => format!("{access} {len} VMFS \"{name}\""),
                Kind::Flat { .. } => format!("{access} {len} FLAT \"{name}\" 0"),
                Kind::Hosted { .. } | Kind::Stream { .. } => format!("{access} {len} SPARSE \"{name}\""),
                Kind::Cowd { .. } => format!("{access} {len} VMFSSPARSE \"{name}\""),
                Kind::SeSparse { .. } => format!("{access} {len} SESPARSE \"{name}\""),
            };
            text += &line;
            text.push('\n');
        }
        text + "\nddb.adapterType = \"lsilogic\"\n"
    }
}
