/// The most notes of one source.
const MOST: usize = 100;

/// What is odd, as text for people. A source that is odd all over is noted so many times and no more.
#[derive(Default)]
pub(super) struct Notes {
    notes: Vec<String>,
    more: usize,
}

impl Notes {
    pub(super) fn add(&mut self, note: String) {
        if self.notes.len() < MOST {
            self.notes.push(note);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    pub(super) fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.notes.push(format!("{} more of this kind", self.more));
        }
        self.notes
    }
}
