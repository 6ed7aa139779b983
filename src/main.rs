//! The `mingchu` program: hands over to [`mingchu::app`] and maps the outcome to an exit code.
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match mingchu::app::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if standard error is gone.
            drop(writeln!(std::io::stderr(), "mingchu: {failure}"));
            ExitCode::from(failure.code as u8)
        }
    }
}
