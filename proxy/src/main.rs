//! One binary: `stillframe`, and each VCB tool by its name.

use std::process::ExitCode;

fn main() -> ExitCode {
    stillframe::cli::main()
}
