//! The shipped models on the shared pictures: the program must see what the evaluation that wrote
//! their cards saw.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mingchu::base::geometry::NormRect;
use mingchu::decode::read_picture;
use mingchu::detect::{HeadLabel, Models, Runtime};

use crate::support::{root, run};

/// The shipped cards, in the order in which the program looks for them.
const SHIPPED: [&str; 3] = [
    "models/kitchen.toml",
    "models/heads.toml",
    "models/smoking.toml",
];

/// Class, left, top, right, bottom, as fractions of the picture.
type Labelled = (String, [f64; 4]);
/// Class, score, and the same corners.
type Found = (String, f64, [f64; 4]);

/// Rows of a `labels.csv` by column name. No field of these files is quoted.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let fields = names.iter().copied().zip(line.split(','));
            fields.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        })
        .collect()
}

/// The `dev` pictures in which somebody boxed every object of these classes, with the boxes: the
/// parts of the sets that `models/training/report.py` judges the classes on.
fn judged(data: &Path, classes: &[&str]) -> BTreeMap<PathBuf, Vec<Labelled>> {
    let mut all: BTreeMap<PathBuf, Vec<Labelled>> = BTreeMap::new();
    let mut take = |row: &BTreeMap<String, String>, file: PathBuf, class: &str, keys: [&str; 4]| {
        let boxes = all.entry(file).or_default();
        if let Some(numbers) = keys
            .map(|k| row[k].parse().ok())
            .into_iter()
            .collect::<Option<Vec<f64>>>()
        {
            boxes.push((class.to_owned(), numbers.try_into().unwrap()));
        }
    };
    let corners = ["x1", "y1", "x2", "y2"];
    if classes.contains(&"rat") {
        for set in ["rodent", "negatives"] {
            for row in rows(&data.join(set).join("labels.csv")) {
                if row["file"].starts_with("dev/") {
                    take(
                        &row,
                        data.join(set).join(&row["file"]),
                        &row["class"],
                        corners,
                    );
                }
            }
        }
    } else {
        for row in rows(&data.join("mask/labels.csv")) {
            if row["file"].starts_with("dev/") {
                let class = match row["class"].as_str() {
                    "face" => "face-bare",
                    "face-mask-chin" => "face-chin",
                    other => other,
                };
                take(&row, data.join("mask").join(&row["file"]), class, corners);
            }
        }
        for row in rows(&data.join("heads/labels.csv")) {
            if row["split"] == "dev" && row["complete"] == "1" {
                let class = match row["face"].as_str() {
                    "unseen" => "head".to_owned(),
                    state => format!("face-{state}"),
                };
                let file = data.join("heads/images").join(&row["source_image"]);
                take(&row, file, &class, ["fx1", "fy1", "fx2", "fy2"]);
            }
        }
    }
    all
}

fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
    let area = |r: &[f64; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let shared = side(0) * side(1);
    shared / (area(a) + area(b) - shared).max(1e-12)
}

/// Area under the precision envelope at an overlap of 0.5, each picture matched greedily.
fn average_precision(
    seen: &BTreeMap<PathBuf, Vec<Found>>,
    truth: &BTreeMap<PathBuf, Vec<Labelled>>,
    class: &str,
) -> f64 {
    let (mut hits, mut total) = (Vec::new(), 0);
    for (file, labelled) in truth {
        let mine: Vec<_> = labelled.iter().filter(|l| l.0 == class).collect();
        total += mine.len();
        let mut used = vec![false; mine.len()];
        let mut found: Vec<_> = seen[file].iter().filter(|s| s.0 == class).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (_, score, rect) in found {
            let free = (0..mine.len()).filter(|&i| !used[i]);
            let best =
                free.max_by(|&a, &b| iou(rect, &mine[a].1).total_cmp(&iou(rect, &mine[b].1)));
            let hit = best.filter(|&i| iou(rect, &mine[i].1) >= 0.5);
            if let Some(i) = hit {
                used[i] = true;
            }
            hits.push((*score, hit.is_some()));
        }
    }
    hits.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut right = 0.0;
    let mut precision: Vec<f64> = Vec::new();
    for (n, (_, hit)) in hits.iter().enumerate() {
        right += f64::from(u8::from(*hit));
        precision.push(right / (n + 1) as f64);
    }
    for n in (1..precision.len()).rev() {
        precision[n - 1] = precision[n - 1].max(precision[n]);
    }
    let under = hits
        .iter()
        .zip(&precision)
        .filter(|(h, _)| h.1)
        .map(|(_, p)| p);
    under.sum::<f64>() / f64::from(total as u32)
}

/// The lines of `mingchu detect --json` for these pictures, with these cards.
fn lines(pictures: &[&PathBuf], cards: &[&str]) -> Vec<serde_json::Value> {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("pictures.txt");
    let names: Vec<String> = pictures
        .iter()
        .map(|p| p.canonicalize().unwrap().display().to_string())
        .collect();
    std::fs::write(&list, names.join("\n")).unwrap();
    let list = list.display().to_string();
    let cards: Vec<String> = cards
        .iter()
        .map(|c| root(c).display().to_string())
        .collect();
    let mut args = vec!["detect", "--json", "--list", &list];
    for card in &cards {
        args.extend(["--models", card]);
    }
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    out.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// What the program sees in these pictures.
fn seen(pictures: &[&PathBuf]) -> BTreeMap<PathBuf, Vec<Found>> {
    let lines = lines(pictures, &["models/kitchen.toml"]).into_iter();
    lines
        .zip(pictures)
        .map(|(line, picture)| {
            let object = |o: &serde_json::Value| {
                let corner = |i: usize| o["box"][i].as_f64().unwrap();
                (
                    o["class"].as_str().unwrap().to_owned(),
                    o["score"].as_f64().unwrap(),
                    [0, 1, 2, 3].map(corner),
                )
            };
            let objects = line["objects"].as_array().unwrap().iter().map(object);
            ((*picture).clone(), objects.collect())
        })
        .collect()
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn the_program_sees_in_the_dev_pictures_what_the_card_says_within_half_a_point() {
    let shared = std::env::var("MINGCHU_SHARED").map_or_else(|_| root("../shared"), PathBuf::from);
    let card = std::fs::read_to_string(root("models/kitchen.toml")).unwrap();
    let card: toml::Table = toml::from_str(&card).unwrap();
    let quality = &card["quality"]["dev x1"];
    let mut gaps = Vec::new();
    for classes in [&["rat", "cat", "dog"][..], &["face-bare", "face-masked"]] {
        let truth = judged(&shared.join("data"), classes);
        let pictures: Vec<&PathBuf> = truth.keys().collect();
        let seen = seen(&pictures);
        for class in classes {
            let ours = average_precision(&seen, &truth, class);
            let theirs = quality[*class]["ap50"].as_float().unwrap();
            assert!(ours > 0.3, "{class}: {ours}");
            gaps.push((class, ours, theirs));
        }
    }
    for (class, ours, theirs) in gaps {
        assert!(
            (ours - theirs).abs() <= 0.005,
            "{class}: program {ours:.4}, card {theirs:.4}"
        );
    }
}

/// The crop of a head by its face box, as the cards' `[heads]` cut it.
fn head_of_face(face: [f64; 4], heads: &toml::Value) -> NormRect {
    let number = |key: &str| heads[key].as_float().unwrap();
    let [x0, y0, x1, y1] = face;
    let (w, h, middle) = (x1 - x0, y1 - y0, f64::midpoint(x0, x1));
    NormRect {
        x0: (middle - number("width") / 2.0 * w) as f32,
        y0: (y0 - number("above") * h) as f32,
        x1: (middle + number("width") / 2.0 * w) as f32,
        y1: (y0 + number("below") * h) as f32,
    }
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn the_program_tells_covered_from_bare_heads_as_well_as_the_card_says() {
    let shared = std::env::var("MINGCHU_SHARED").map_or_else(|_| root("../shared"), PathBuf::from);
    let data = shared.join("data/heads");
    let cards = ["models/kitchen.toml", "models/heads.toml"].map(root);
    let card: toml::Table = toml::from_str(&std::fs::read_to_string(&cards[1]).unwrap()).unwrap();
    let runtime = Runtime::load(Some(&root(".runtime/onnxruntime/libonnxruntime.so"))).unwrap();
    let mut detector = Models::load(runtime, &cards).unwrap().detector().unwrap();
    // [bare, covered]: right, judged.
    let mut counts = [[0_u32; 2]; 2];
    let mut aside = 0_u32;
    for row in rows(&data.join("labels.csv")) {
        if row["split"] != "dev" || row["head"] == "unclear" {
            continue;
        }
        let frame = read_picture(&data.join("images").join(&row["source_image"])).unwrap();
        let face = ["fx1", "fy1", "fx2", "fy2"].map(|k| row[k].parse().unwrap());
        let crop = head_of_face(face, &card["heads"]);
        let state = detector.classify_head(&frame, &crop).unwrap().unwrap();
        match state.likeliest_cover().0 {
            HeadLabel::Unclear => aside += 1,
            said => {
                let of = usize::from(row["head"] != "bare");
                counts[of][1] += 1;
                counts[of][0] += u32::from((said == HeadLabel::Bare) == (of == 0));
            }
        }
    }
    let ours = counts
        .iter()
        .map(|c| f64::from(c[0]) / f64::from(c[1]))
        .sum::<f64>()
        / 2.0;
    let put_aside = f64::from(aside) / f64::from(aside + counts[0][1] + counts[1][1]);
    let says = |key: &str| card["quality"]["covered or bare"][key].as_float().unwrap();
    // One head of the 120 to 170 of each kind is 0.3 to 0.4 points.
    assert!(
        (ours - says("balanced_accuracy")).abs() <= 0.01,
        "{ours} {counts:?}"
    );
    assert!((put_aside - says("put_aside")).abs() <= 0.01, "{put_aside}");
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn the_program_tells_smokers_as_well_as_the_card_says() {
    let shared = std::env::var("MINGCHU_SHARED").map_or_else(|_| root("../shared"), PathBuf::from);
    let cards = SHIPPED.map(|c| {
        let text = std::fs::read_to_string(root(c)).unwrap();
        toml::from_str::<toml::Table>(&text).unwrap()
    });
    let threshold = |card: &toml::Table, label: &str| {
        let classes = card["classes"].as_array().unwrap();
        let class = classes.iter().find(|c| c["name"].as_str() == Some(label));
        class.unwrap()["threshold"].as_float().unwrap()
    };
    let cigarette = threshold(&cards[0], "cigarette");
    let smoking = threshold(&cards[2], "smoking");
    // Whether somebody smokes, by picture.
    let mut truth: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for set in ["smoking", "negatives"] {
        for row in rows(&shared.join("data").join(set).join("labels.csv")) {
            if row["file"].starts_with("dev/") {
                let file = shared.join("data").join(set).join(&row["file"]);
                let smokes = matches!(row["class"].as_str(), "cigarette" | "smoker");
                *truth.entry(file).or_default() |= smokes;
            }
        }
    }
    let pictures: Vec<&PathBuf> = truth.keys().collect();
    // [calm, smoking]: alarms, pictures.
    let mut counts = [[0_u32; 2]; 2];
    for (line, picture) in lines(&pictures, &SHIPPED).iter().zip(&pictures) {
        let alarms = line["objects"].as_array().unwrap().iter().any(|o| {
            let score = o["score"].as_f64().unwrap();
            let smokes = o["smoking"].as_f64().unwrap_or_default();
            (o["class"] == "cigarette" && score >= cigarette) || smokes >= smoking
        });
        let of = &mut counts[usize::from(truth[*picture])];
        of[0] += u32::from(alarms);
        of[1] += 1;
    }
    let shares = counts.map(|[alarms, all]| f64::from(alarms) / f64::from(all));
    let says = &cards[2]["quality"]["smoking per picture, either"];
    for (ours, key) in shares.into_iter().zip(["false_alarms", "recall"]) {
        let theirs = says[key].as_float().unwrap();
        // Two of the 140 to 150 pictures of each kind.
        assert!(
            (ours - theirs).abs() <= 0.015,
            "{key}: program {ours:.3}, card {theirs:.3}"
        );
    }
}
