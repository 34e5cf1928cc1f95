//! What was found and what is shown, for people and for programs. It also lies in the mount, at `.stillframe`.

use serde::{Deserialize, Serialize};

use super::guest::Guest;
use super::sandbox::Layer;
use super::tree::Document;
use crate::job::RunId;

/// A volume in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Its number: the folder `digits/NUMBER`, if it can be read.
    pub number: u32,
    /// Its disk.
    pub disk: String,
    /// The number of its partition; none if it fills the disk.
    pub partition: Option<u32>,
    /// What it is.
    pub kind: String,
    /// Its length in bytes.
    pub size: u64,
    /// The name that users gave it.
    pub label: Option<String>,
    /// Its drive letter in the guest.
    pub letter: Option<char>,
    /// How the letter is known.
    pub letter_source: Option<String>,
    /// Why it cannot be read, if it cannot.
    pub unreadable: Option<String>,
    /// What its reader noticed.
    pub notes: Vec<String>,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The run that made it.
    pub run: RunId,
    /// The version of this program.
    pub version: String,
    /// When it was made, RFC 3339.
    pub generated: String,
    /// Where it is mounted; empty if nowhere.
    pub path: String,
    /// What is shown: files of images, or a VM.
    pub source: String,
    /// The snapshot that keeps the disks still, if there is one.
    pub snapshot: Option<String>,
    /// All volumes.
    pub volumes: Vec<VolumeReport>,
    /// What users should know.
    pub warnings: Vec<String>,
    /// How the process that reads the guest's data is locked in.
    pub sandbox: Vec<Layer>,
}

impl Report {
    /// A report of `guest`, which is not mounted yet.
    #[must_use]
    pub fn of(guest: &Guest, run: RunId, source: String) -> Self {
        let volume = |volume: &super::GuestVolume| {
            let letter = guest.letter_of(volume.number);
            let about = volume.content.as_ref().ok().map(|fs| fs.about());
            VolumeReport {
                number: volume.number,
                disk: volume.disk.clone(),
                partition: volume.partition,
                kind: about.map_or(volume.kind, |about| about.kind).to_string(),
                size: volume.size.0,
                label: about.and_then(|about| about.label.clone()),
                letter,
                letter_source: letter.and_then(|letter| Some(guest.letters.get(&letter)?.source.clone())),
                unreadable: volume.content.as_ref().err().cloned(),
                notes: about.map(|about| about.notes.clone()).unwrap_or_default(),
            }
        };
        Self {
            run,
            version: env!("CARGO_PKG_VERSION").into(),
            generated: jiff::Timestamp::now().to_string(),
            path: String::new(),
            source,
            snapshot: None,
            volumes: guest.volumes.iter().map(volume).collect(),
            warnings: guest.notes.clone(),
            sandbox: Vec::new(),
        }
    }

    /// The same with how the server is locked in; what does not hold is a warning.
    #[must_use]
    pub fn locked_in(mut self, layers: Vec<Layer>) -> Self {
        let missing = layers.iter().filter(|layer| !layer.holds);
        let warnings = missing.map(|layer| format!("not locked in by {}: {}", layer.name, layer.note));
        self.warnings.extend(warnings);
        self.sandbox = layers;
        self
    }

    /// The text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        if !self.path.is_empty() {
            lines.push(format!("{} is mounted on {} (run {})", self.source, self.path, self.run));
        }
        lines.extend(self.snapshot.iter().map(|snapshot| format!("kept still by {snapshot}")));
        lines.extend(self.volumes.iter().map(volume_line));
        lines.extend(self.volumes.iter().flat_map(|volume| {
            volume.notes.iter().map(|note| format!("note: volume {}: {note}", volume.number)).collect::<Vec<_>>()
        }));
        lines.extend(self.warnings.iter().map(|warning| format!("note: {warning}")));
        let holding: Vec<_> =
            self.sandbox.iter().filter(|layer| layer.holds).map(|layer| layer.name.as_str()).collect();
        if !holding.is_empty() {
            lines.push(format!("locked in by: {}", holding.join(", ")));
        }
        // Labels and the like are the guest's.
        lines.iter().map(|line| line.replace(char::is_control, "?") + "\n").collect()
    }

    /// The files that lie in the mount.
    pub(super) fn documents(&self) -> Vec<Document> {
        let json = serde_json::to_vec_pretty(self).unwrap_or_default(); // text and numbers always can be written
        vec![
            Document { name: "report.json", bytes: json },
            Document { name: "report.txt", bytes: self.text().into_bytes() },
        ]
    }
}

fn volume_line(volume: &VolumeReport) -> String {
    let place = volume.partition.map_or_else(String::new, |partition| format!(" partition {partition}"));
    let size = crate::cli::output::size(volume.size);
    let label = volume.label.as_ref().map_or_else(String::new, |label| format!(" \"{label}\""));
    let folder = match (&volume.unreadable, volume.letter) {
        (Some(why), _) => format!("cannot be read: {why}"),
        (None, Some(letter)) => {
            let source = volume.letter_source.as_deref().unwrap_or_default();
            format!("letters/{letter} ({source}), digits/{}", volume.number)
        }
        (None, None) => format!("digits/{}", volume.number),
    };
    format!("{}: {}{place}: {} of {size}{label}: {folder}", volume.number, volume.disk, volume.kind)
}
