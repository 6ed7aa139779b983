//! Writing to the terminal: colour when a person looks, plain when a program reads, and a closed pipe
//! ends the program in silence.
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;

use crate::base::time::{MonoMicros, SharedClock};
use crate::base::words::{Lang, Texts};

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    colour: bool,
    lang: Lang,
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
    pub fn new(lang: Lang) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colour, lang }
    }

    /// What people read it in.
    pub fn lang(self) -> Lang {
        self.lang
    }

    /// A text in its language.
    pub fn say(self, texts: &Texts) -> &str {
        texts.of(self.lang)
    }

    /// With colour on or off, whatever the output is.
    #[cfg(test)]
    pub fn with_colour(colour: bool) -> Self {
        let lang = Lang::En;
        Self { colour, lang }
    }

    /// In another language.
    #[cfg(test)]
    pub fn with_lang(self, lang: Lang) -> Self {
        Self { lang, ..self }
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

/// How far long work is, in one line of standard error that is drawn over and over; on a terminal
/// only. Shared by the threads that work.
#[derive(Debug)]
pub struct Progress {
    total_us: u64,
    clock: SharedClock,
    begun: MonoMicros,
    /// `None`: nobody looks.
    state: Option<Mutex<Done>>,
}

#[derive(Debug, Default)]
struct Done {
    media_us: u64,
    pictures: u64,
    drawn: Option<MonoMicros>,
}

/// Times a second that the line is drawn, at most.
const DRAWS_PER_S: u64 = 8;

impl Progress {
    /// Of clips that are `total_us` long together; 0: not known.
    pub fn new(total_us: u64, clock: SharedClock) -> Self {
        let begun = clock.mono();
        let is_shown = io::stderr().is_terminal();
        Self {
            total_us,
            clock,
            begun,
            state: is_shown.then(Mutex::default),
        }
    }

    /// So much more is done.
    pub fn advance(&self, media_us: u64, pictures: u64) {
        let Some(Ok(mut done)) = self.state.as_ref().map(Mutex::lock) else {
            return;
        };
        done.media_us += media_us;
        done.pictures += pictures;
        let now = self.clock.mono();
        let due = |at: MonoMicros| now.ms_since(at) >= 1000 / DRAWS_PER_S;
        if done.drawn.is_none_or(due) {
            done.drawn = Some(now);
            let text = self.text(&done, now);
            // Still locked, so that lines of two threads do not mix. If standard error is gone, the
            // work still counts.
            drop(write!(io::stderr(), "\r{text}\x1b[K"));
        }
    }

    /// Takes the line away, before other output or at the end.
    pub fn clear(&self) {
        let Some(Ok(mut done)) = self.state.as_ref().map(Mutex::lock) else {
            return;
        };
        if done.drawn.take().is_some() {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }

    fn text(&self, done: &Done, now: MonoMicros) -> String {
        const CELLS: u64 = 24;
        let elapsed_s = now.since(self.begun).as_secs_f64().max(0.001);
        let (media_s, total_s) = (done.media_us as f64 / 1e6, self.total_us as f64 / 1e6);
        let rate = done.pictures as f64 / elapsed_s;
        if self.total_us == 0 {
            return format!("{media_s:.0} s of clips  {rate:.0} pictures/s");
        }
        let share = (media_s / total_s).min(1.0);
        let full = (share * CELLS as f64) as usize;
        let bar: String = (0..CELLS as usize)
            .map(|cell| if cell < full { '#' } else { '.' })
            .collect();
        let left_s = if share > 0.0 {
            elapsed_s / share - elapsed_s
        } else {
            0.0
        };
        let (minutes, seconds) = ((left_s / 60.0) as u64, left_s as u64 % 60);
        format!(
            "[{bar}] {:3.0} %  {media_s:.0} of {total_s:.0} s  {rate:.0} pictures/s  {minutes}:{seconds:02} left",
            share * 100.0
        )
    }
}

/// One line of standard error that is drawn over and over, for work whose steps have their own words; on
/// a terminal only.
#[derive(Debug)]
pub struct LiveLine {
    is_shown: bool,
}

impl LiveLine {
    /// Nothing is drawn yet.
    pub fn new() -> Self {
        Self {
            is_shown: io::stderr().is_terminal(),
        }
    }

    /// In place of what was there.
    pub fn show(&self, text: impl std::fmt::Display) {
        if self.is_shown {
            // If standard error is gone, the work still counts.
            drop(write!(io::stderr(), "\r{text}\x1b[K"));
        }
    }

    /// Takes the line away, before other output or at the end.
    pub fn clear(&self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{Clock as _, ManualClock, UtcMicros};
    use std::time::Duration;

    #[test]
    fn text_is_coloured_only_for_people() {
        assert_eq!(Terminal::with_colour(false).paint(Tone::Bad, "x"), "x");
        assert_eq!(
            Terminal::with_colour(true).paint(Tone::Good, "x"),
            "\x1b[32mx\x1b[0m"
        );
    }
    #[test]
    fn progress_tells_the_share_the_rate_and_the_time_left() {
        let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
        let mut progress = Progress::new(100_000_000, clock.clone());
        progress.state = Some(Mutex::default());
        clock.advance(Duration::from_secs(10));
        let done = Done {
            media_us: 25_000_000,
            pictures: 500,
            drawn: None,
        };
        assert_eq!(
            progress.text(&done, clock.mono()),
            "[######..................]  25 %  25 of 100 s  50 pictures/s  0:30 left"
        );
        progress.total_us = 0;
        assert_eq!(
            progress.text(&done, clock.mono()),
            "25 s of clips  50 pictures/s"
        );
    }
}
