//! Writing to the terminal: colour when a person looks, plain when a program reads, and a closed pipe
//! ends the program in silence.
use std::io::{self, IsTerminal as _, Write as _};

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    colour: bool,
}

/// What a piece of text is, for colouring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Good news.
    Good,
    /// Needs a look.
    Warn,
    /// A violation or a failure.
    Bad,
    /// Less important.
    Faint,
    /// A heading.
    Bold,
}

impl Terminal {
    /// Colour if standard output is a terminal and `NO_COLOR` is unset (<https://no-color.org>).
    pub fn new() -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colour }
    }

    /// With colour on or off, whatever the output is.
    #[cfg(test)]
    pub fn with_colour(colour: bool) -> Self {
        Self { colour }
    }

    /// `text` in `tone`.
    pub fn paint(self, tone: Tone, text: impl std::fmt::Display) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
            Tone::Bold => "1",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// Writes a line. A reader that went away (`| head`) ends the program: there is nobody left to
    /// write to.
    #[expect(
        clippy::unused_self,
        reason = "the counterpart of paint; callers have one terminal"
    )]
    pub fn line(self, text: impl std::fmt::Display) {
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        if let Err(e) = written {
            std::process::exit(if e.kind() == io::ErrorKind::BrokenPipe {
                0
            } else {
                74
            });
        }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_coloured_only_for_people() {
        assert_eq!(Terminal::with_colour(false).paint(Tone::Bad, "x"), "x");
        assert_eq!(
            Terminal::with_colour(true).paint(Tone::Good, "x"),
            "\x1b[32mx\x1b[0m"
        );
    }
}
