//! How a command ends: exit codes by meaning, after sysexits.h.
use std::fmt;

/// What the exit code tells whoever started us (a shell, systemd, an installer's script).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// 64: the command line is wrong.
    Usage = 64,
    /// 65: a file's content is wrong (a clip that is no video).
    Data = 65,
    /// 69: something that must be reached is not there (a camera, a broker).
    Unavailable = 69,
    /// 70: our own fault; systemd should start us again.
    Internal = 70,
    /// 73: a directory or file cannot be written.
    CannotCreate = 73,
    /// 77: a login was refused.
    NoPermission = 77,
    /// 78: the config, a model or the runtime library is wrong; starting again will not help.
    Config = 78,
}

/// A command that failed: the code for machines, the chain of reasons for people.
#[derive(Debug)]
pub struct Failure {
    /// For machines.
    pub code: ExitCode,
    /// For people.
    pub reason: anyhow::Error,
}

/// What commands return.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// Wraps `reason`.
    pub fn new(code: ExitCode, reason: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.reason)
    }
}

/// Gives an error its exit code.
pub trait OrExit<T> {
    /// The value, or a [`Failure`] with `code`.
    ///
    /// # Errors
    /// The error it had.
    fn or_exit(self, code: ExitCode) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: ExitCode) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(code, e))
    }
}
