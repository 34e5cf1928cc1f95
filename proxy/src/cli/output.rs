use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::error::{Context, Error, Family, Result};
use crate::job::ProgressMode;

/// How a long command shows itself.
#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) progress: ProgressMode,
}

/// The first thing that could not be printed.
static UNPRINTED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints a line. A reader that has gone away (`| head`) hears no more, and changes nothing of what is done or of the exit code; any
/// other failure is told at the end.
pub(crate) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Prints text as it is.
pub(crate) fn text(text: &str) {
    if let Err(error) = std::io::stdout().lock().write_all(text.as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        UNPRINTED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Whether everything was printed, as far as somebody wanted to read it.
///
/// # Errors
/// [`Family::Failed`].
pub(crate) fn finish() -> Result<()> {
    let flushed = std::io::stdout().lock().flush().err();
    let failed = UNPRINTED.lock().unwrap_or_else(PoisonError::into_inner).take().or(flushed);
    match failed.filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        Some(error) => Err(Error::new(Family::Failed, "cannot write to standard output").caused_by(error)),
        None => Ok(()),
    }
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value).failed(|| "cannot write JSON".into())?);
    Ok(())
}

/// Prints rows in columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let show = |cells: &[&str]| {
        let padded: Vec<String> =
            cells.iter().enumerate().map(|(i, cell)| format!("{cell:<w$}", w = width(i))).collect();
        line(padded.join("  ").trim_end());
    };
    show(head);
    for row in rows {
        show(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Asks a question on the terminal. Without one the answer is an error that says which flag answers it.
pub(crate) fn ask(question: &str, flag: &str) -> Result<bool> {
    use std::io::IsTerminal;
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(Family::Usage, format!("\"{question}\" cannot be asked: there is no terminal"))
            .hint(format!("use {flag}")));
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).failed(|| "cannot read the answer".into())?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_carry_their_unit() {
        assert_eq!(
            [size(0), size(1023), size(1536), size(4 << 30), size(62 << 40)].join(" "),
            "0 B 1023 B 1.5 KiB 4.0 GiB 62.0 TiB"
        );
    }
}
