//! What is logged, and how a line looks: plain for `stillframe`, VCB's bracketed form for its tools (vcb.md section 16).

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `warning: text`
    Plain,
    /// `[2007-08-07 12:13:47.418 'App' 2144 warning] text`
    Vcb,
}

/// Starts logging to standard error. `more` counts how much more than warnings is wanted.
pub(super) fn start(style: Style, more: u8) {
    let level = match more {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // Our own crates only: HTTP libraries log headers, and those hold session cookies.
    let ours = ["stillframe", "vsphere", "lab"].map(|name| format!("{name}={level}")).join(",");
    let started = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(ours))
        .with_writer(std::io::stderr)
        .log_internal_errors(false) // it would say so on a standard error that is gone, and panic
        .event_format(Lines { style })
        .try_init();
    drop(started); // somebody who uses the library may have set up their own
}

struct Lines {
    style: Style,
}

/// What an event says, and ` name=value` for each of its other fields.
#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "verbose",
        Level::TRACE => "trivia",
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut message = Message::default();
        event.record(&mut message);
        let text = format!("{}{}", message.text, message.fields).replace('\n', " ");
        let level = level_name(*event.metadata().level());
        match self.style {
            Style::Plain => writeln!(out, "{level}: {text}"),
            Style::Vcb => {
                let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.3f").to_string();
                writeln!(out, "[{now} 'App' {} {level}] {text}", std::process::id())
            }
        }
    }
}
