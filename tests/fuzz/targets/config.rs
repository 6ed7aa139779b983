//! A site's config, as an integrator writes it and as the centre sends it.
//!
//! Whatever the text is, it is a config or a list of problems, never both and never neither, and each
//! problem points into the text and says what to do.
#![no_main]
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mingchu::app::config::{Desired, Parsed, parse, parse_over};

/// The site's own file, over which the centre's config is laid.
const OWN: &str = include_str!("../../../config/site.minimal.toml");

fn judge(parsed: &Parsed, lines: usize) {
    assert_eq!(parsed.config.is_some(), parsed.problems.is_empty());
    for problem in &parsed.problems {
        assert!(
            !problem.message.is_empty() && !problem.remedy.is_empty(),
            "{problem:?}"
        );
        assert!(problem.line <= lines + 1, "{problem:?}");
    }
}

fuzz_target!(|text: &str| {
    let path = Path::new("site.toml");
    let lines = text.lines().count().max(OWN.lines().count());
    judge(&parse(path, text), lines);
    let desired = Desired {
        revision: 1,
        text: text.to_owned(),
    };
    judge(&parse_over(path, OWN, &desired), lines);
});
