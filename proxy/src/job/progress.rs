//! How far are we: a bar on a terminal, plain lines in a log, JSON for machines. All on standard error.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::tell;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
pub enum ProgressMode {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line for each disk every ten seconds.
    Lines,
    /// A JSON object per line for each disk every second.
    Json,
    /// Nothing.
    None,
}

#[derive(Clone)]
enum Shown {
    Bars(MultiProgress),
    Lines,
    Json,
    Nothing,
}

/// The display of a run. Clones share it.
#[derive(Clone)]
pub struct Progress {
    shown: Shown,
}

impl Progress {
    /// The display that `mode` asks for.
    #[must_use]
    pub fn new(mode: ProgressMode) -> Self {
        let bars = || Shown::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let shown = match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => bars(),
            ProgressMode::Bar => bars(),
            ProgressMode::Auto | ProgressMode::Lines => Shown::Lines,
            ProgressMode::Json => Shown::Json,
            ProgressMode::None => Shown::Nothing,
        };
        Self { shown }
    }

    /// A display that shows nothing.
    #[must_use]
    pub const fn silent() -> Self {
        Self { shown: Shown::Nothing }
    }

    /// Shows a step of the run.
    pub fn step(&self, text: &str) {
        match &self.shown {
            Shown::Bars(bars) => drop(bars.println(text)),
            Shown::Lines => tell(text),
            Shown::Json => tell(&json!({ "event": "step", "text": text }).to_string()),
            Shown::Nothing => {}
        }
    }

    /// Begins to show the way of `total` bytes of `label`.
    #[must_use]
    pub fn meter(&self, label: &str, total: u64) -> Meter {
        let bar = match &self.shown {
            Shown::Bars(bars) => {
                let bar = bars.add(ProgressBar::new(total));
                let template = "{msg:24!} {wide_bar} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>5}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_message(label.to_owned());
                Some(bar)
            }
            _ => None,
        };
        Meter {
            inner: Arc::new(Inner {
                shown: self.shown.clone(),
                bar,
                label: label.to_owned(),
                total: AtomicU64::new(total),
                done: AtomicU64::new(0),
                began: Instant::now(),
                shown_at_ms: AtomicU64::new(0),
            }),
        }
    }
}

struct Inner {
    shown: Shown,
    bar: Option<ProgressBar>,
    label: String,
    total: AtomicU64,
    done: AtomicU64,
    began: Instant,
    shown_at_ms: AtomicU64,
}

/// The way of one disk. Clones share it.
#[derive(Clone)]
pub struct Meter {
    inner: Arc<Inner>,
}

impl Meter {
    /// The total turned out otherwise.
    pub fn set_total(&self, total: u64) {
        self.inner.total.store(total, Ordering::Relaxed);
        if let Some(bar) = &self.inner.bar {
            bar.set_length(total);
        }
    }

    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let done = self.inner.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let every = match &self.inner.shown {
            Shown::Bars(_) => {
                if let Some(bar) = &self.inner.bar {
                    bar.set_position(done);
                }
                return;
            }
            Shown::Lines => Duration::from_secs(10),
            Shown::Json => Duration::from_secs(1),
            Shown::Nothing => return,
        };
        let now = millis(self.inner.began.elapsed());
        let last = self.inner.shown_at_ms.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= millis(every);
        // Of several threads that find it due, one shows it.
        if due && self.inner.shown_at_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.show(done);
        }
    }

    /// The disk is done.
    pub fn finish(&self) {
        match &self.inner.bar {
            Some(bar) => bar.finish(),
            None => self.show(self.inner.done.load(Ordering::Relaxed)),
        }
    }

    fn show(&self, done: u64) {
        let total = self.inner.total.load(Ordering::Relaxed);
        let seconds = self.inner.began.elapsed().as_secs_f64().max(0.001);
        let rate = (done as f64 / seconds) as u64;
        let what = &self.inner.label;
        match &self.inner.shown {
            Shown::Lines => {
                let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
                let mib = |bytes: u64| bytes >> 20;
                tell(&format!("{what}: {percent} % ({} of {} MiB, {} MiB/s)", mib(done), mib(total), mib(rate)));
            }
            Shown::Json => {
                let event = json!({ "event": "progress", "what": what, "done": done, "total": total, "bytes_per_second": rate });
                tell(&event.to_string());
            }
            Shown::Bars(_) | Shown::Nothing => {}
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
