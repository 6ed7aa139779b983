//! `mingchu check FILE`: every mistake of a config at once, and of the models it names.
use std::path::Path;

use super::config::{self, Located, Parsed, Problem, Problems};
use super::exit::{ExitCode, Failure, Outcome};
use super::terminal::{Terminal, Tone};
use crate::detect::{CardError, LoadedModel, Models, ModelsError, OnnxError, Runtime};

/// Reads, loads and says what it found.
///
/// # Errors
/// Exit code 78 if anything is wrong; what is wrong has been printed by then.
pub fn run(path: &Path, json: bool, terminal: Terminal) -> Outcome {
    let (problems, good) = check(path);
    for problem in &problems {
        if json {
            terminal.line(serde_json::to_string(problem).unwrap_or_default());
        } else {
            print(problem, terminal);
        }
    }
    let count = problems.len();
    if count > 0 {
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        let reason = anyhow::anyhow!("{}: {count} {noun}", path.display());
        return Err(Failure::new(ExitCode::Config, reason));
    }
    if !json {
        for line in good {
            terminal.line(line);
        }
        terminal.line(format_args!(
            "{}: {}",
            path.display(),
            terminal.paint(Tone::Good, "good")
        ));
    }
    Ok(())
}

fn print(problem: &Problem, terminal: Terminal) {
    let mut place = problem.file.clone();
    if problem.line > 0 {
        place = format!("{place}:{}:{}", problem.line, problem.column);
    }
    let key = if problem.key.is_empty() {
        String::new()
    } else {
        format!(" {}:", terminal.paint(Tone::Bold, &problem.key))
    };
    let place = terminal.paint(Tone::Faint, place + ":");
    terminal.line(format_args!(
        "{place}{key} {}",
        terminal.paint(Tone::Bad, &problem.message)
    ));
    if !problem.remedy.is_empty() {
        terminal.line(format_args!("    {}", problem.remedy));
    }
}

/// All problems, in the order of the file, and what to say if there are none.
fn check(path: &Path) -> (Vec<Problem>, Vec<String>) {
    let text = match config::read_file(path) {
        Ok(text) => text,
        Err(Problems(problems)) => return (problems, Vec::new()),
    };
    let parsed = config::parse(path, &text);
    let mut problems = parsed.problems.clone();
    let loaded = load_models(path, &parsed, &mut problems);
    let mut good = Vec::new();
    if let Some(models) = &loaded {
        problems.extend(config::check_labels(path, &parsed.labels, models));
        for model in models.models() {
            let card = &model.card;
            let labels: Vec<_> = card.classes.iter().map(|c| c.name.as_str()).collect();
            good.push(format!(
                "model {} {}: {}",
                card.name,
                card.version,
                labels.join(", ")
            ));
        }
    }
    if let Some(config) = &parsed.config {
        if let Err(e) = crate::uplink::check(&config.uplink) {
            problems.push(Problem {
                file: path.display().to_string(),
                line: 0,
                column: 0,
                key: "uplink".to_owned(),
                message: e.chain(),
                remedy: String::new(),
            });
        }
        for camera in &config.cameras {
            good.push(format!("camera {}", camera.id));
        }
        for rule in &config.rules {
            let cameras = rule.config.cameras.iter();
            let cameras: Vec<&str> = cameras
                .map(|c| config.cameras[c.index()].id.as_str())
                .collect();
            good.push(format!(
                "rule {}: {} on {}",
                rule.config.id,
                rule.config.code,
                cameras.join(", ")
            ));
        }
    }
    problems.sort_by_key(|p| (p.line, p.column));
    (problems, good)
}

/// The models, if all of them load; otherwise a problem for each that does not.
fn load_models(path: &Path, parsed: &Parsed, problems: &mut Vec<Problem>) -> Option<Models> {
    let mut problem = |at: Option<&Located<_>>, key: &str, message: String, remedy: &str| {
        problems.push(Problem {
            file: path.display().to_string(),
            line: at.map_or(0, |l| l.place.line),
            column: at.map_or(0, |l| l.place.column),
            key: at.map_or_else(|| key.to_owned(), |l| l.place.key.clone()),
            message,
            remedy: remedy.to_owned(),
        });
    };
    let mut all_good = !parsed.models.is_empty();
    for model in &parsed.models {
        if let Err(e) = LoadedModel::load(&model.value) {
            all_good = false;
            let remedy = match e {
                CardError::Unreadable { .. } => "name a model card with its network beside it",
                // These say themselves what to do.
                CardError::Invalid { .. } | CardError::HashMismatch { .. } => "",
            };
            problem(Some(model), "", e.to_string(), remedy);
        }
    }
    let runtime = match Runtime::load(parsed.onnxruntime.path.as_deref()) {
        Ok(runtime) => runtime.on(parsed.onnxruntime.provider),
        Err(e) => {
            problem(None, "detect.onnxruntime", e.to_string(), "");
            return None;
        }
    };
    if !all_good {
        return None;
    }
    let cards: Vec<_> = parsed.models.iter().map(|m| m.value.clone()).collect();
    match Models::load(runtime, &cards) {
        Ok(models) => Some(models),
        Err(e @ ModelsError::Onnx(OnnxError::NoProvider { .. })) => {
            problem(None, "detect.provider", e.to_string(), "");
            None
        }
        Err(e) => {
            problem(parsed.models.first(), "detect.models", e.to_string(), "");
            None
        }
    }
}
