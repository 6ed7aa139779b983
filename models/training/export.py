"""Write the networks and their cards from checkpoints, fp32 and int8.

    python export.py detector --data DIR --checkpoint RUN/best.pt --coco yolox_nano_coco.onnx
    python export.py heads    --data DIR --answers answers.jsonl --checkpoint RUN/best.pt --detector ../kitchen.onnx

Thresholds and the doubt of the classifier come from the held-out slice of train; the figures in the cards are
then measured once on dev.  Networks are written before their cards, each beside its name and then renamed, so
that a reader never finds a card without its network.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import torch

import crops
import measure
import quantise
import report
import sets
from augment import PAD, letterbox
from net import ForExport, YoloxNano, fold_norms, add_norms, grid
from sets import CLASSES, GROUPS

HERE = Path(__file__).parent
CALIBRATION = 160  # pictures
HEAD = 0.4  # threshold of the covers: probability times the head's score
SOURCES = {
    "detector": ["mask/train", "heads train", "heads-hardhat train", "rodent/train", "rodent-topdown", "smoking/train (boxes, non-smoker, none)",
                 "negatives/train"],
    "heads": ["heads train", "mask/train", "heads-hardhat train", "smoking/train", "negatives/train"],
}
RIGHTS = ("The pictures come from public repositories: heads-hardhat is CC0, parts carry MIT or CC BY 4.0 files, most state "
          "no licence for their pictures. None is shipped; the weights are Apache-2.0.")


def toml_value(v):
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, str):
        return json.dumps(v, ensure_ascii=False)
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(toml_value(x) for x in v) + "]"
    if isinstance(v, dict):
        return "{ " + ", ".join(f"{toml_key(k)} = {toml_value(x)}" for k, x in v.items() if x is not None) + " }"
    return repr(float(v)) if isinstance(v, (float, np.floating)) else str(v)


def toml_key(k):
    return k if all(c.isalnum() or c in "-_" for c in k) and k else json.dumps(k)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write(path, lines):
    part = path.with_suffix(".toml.part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(path)


def failures_of(name):
    """Known failures, one a line, from the file beside this script."""
    words = [w for w in (HERE / f"failures-{name}.txt").read_text().splitlines() if w.strip()]
    if not words:
        raise ValueError(f"failures-{name}.txt is empty: a network without a known failure has not been looked at")
    return words


def head_lines(name, path, version, summary):
    return [f'name = "{name}"', f'version = "{version}"', f'file = "{path.name}"', f'sha256 = "{digest(path)}"',
            'licence = "Apache-2.0"', f"summary = {toml_value(summary)}", ""]


def training_lines(kind, start, script, checkpoint, date):
    return ["[training]", f"data = {toml_value(SOURCES[kind])}", f"rights = {toml_value(RIGHTS)}", f"start = {toml_value(start)}",
            f'script = "models/training/{script}"', f'date = "{date}"', f"seed = {checkpoint['seed']}", f"epoch = {checkpoint['epoch'] + 1}", ""]


def quality_lines(quality):
    """The free part of the card: a table for each kind of figure."""
    out, tables = ["[quality]"], []
    for k, v in quality.items():
        if isinstance(v, dict):
            tables += ["", f"[quality.{toml_key(k)}]"] + [f"{toml_key(n)} = {toml_value(x)}" for n, x in v.items() if x is not None]
        else:
            out.append(f"{toml_key(k)} = {toml_value(v)}")
    return out + tables


def export_detector(a):
    checkpoint = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
    net = add_norms(YoloxNano(len(CLASSES)))
    net.load_state_dict(checkpoint["net"])
    net = ForExport(fold_norms(net)).eval()
    plain, small = a.out / "kitchen.onnx", a.out / "kitchen-int8.onnx"
    part = plain.with_suffix(".part")
    torch.onnx.export(net, torch.zeros(1, 3, 320, 416), str(part), opset_version=17, input_names=["images"], output_names=["output"],
                      dynamic_axes={"images": {2: "height", 3: "width"}, "output": {1: "cells"}}, dynamo=False)
    onnx.checker.check_model(onnx.load(str(part)))
    for width, height in ((416, 416), (544, 320), (224, 224)):
        x = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
        y = report.onnx_predict(part)(x)
        with torch.no_grad():
            want = net(torch.from_numpy(x))[0].numpy()
        assert y.shape == (len(grid(height, width)[0]), 5 + len(CLASSES)) and np.abs(y - want).max() < 2e-3, y.shape
    part.replace(plain)
    rng = np.random.default_rng(1)
    train = [p for p in report.own_pictures(a.data, "train") if not sets.held_out(p.name)]
    tensors = []
    for i in rng.permutation(len(train))[:CALIBRATION]:
        h, w = train[i].image.shape[:2]
        box, _ = letterbox(train[i].image, *measure.input_shape(w, h))
        tensors.append(box.transpose(2, 0, 1)[None].astype(np.float32))
    quantise.quantise(plain, small, tensors, keep_float=("/cls/", "/reg/", "/obj/", "/net/stem/"))

    held, dev = report.of_part(a.data, "held-out"), report.of_part(a.data, "dev")
    for path in (plain, small):
        predict = report.onnx_predict(path)
        results = report.detections(predict, held) + report.detections(predict, held, 0.45)
        limits = {n: report.best_threshold(results, n) if n not in ("person", "phone", "head") else 0.5 for n in CLASSES}
        limits["head"] = 0.3
        figures = report.detector_report(predict, dev, limits)
        x = np.full((1, 3, 416, 416), PAD, np.float32)
        base = report.onnx_predict(a.coco)
        pairs = [(report.milliseconds(predict, x, 20), report.milliseconds(base, x, 20)) for _ in range(9)]  # in turns
        ours, theirs = (min(p[i] for p in pairs) for i in (0, 1))
        figures["speed"] = {"ms_416_one_thread": round(ours, 2), "yolox_nano_coco_ms": round(theirs, 2), "ratio": round(ours / theirs, 3)}
        card_of_detector(a, path, checkpoint, limits, figures)
        print(path.name, json.dumps({"thresholds": limits, "dev": figures}), flush=True)


def card_of_detector(a, path, checkpoint, limits, figures):
    name = path.stem
    summary = ("Finds persons, heads and faces (bare, masked, mask worn wrongly), rats and mice, cats, dogs, cigarettes and phones; "
               "small fixed-camera views, one frame at a time" + ("; int8." if "int8" in name else "."))
    lines = head_lines(name, path, a.version, summary)
    lines += ["[input]", "width_px = 416", "height_px = 416", 'fit = "frame"           # any shape of at most that area', 'channels = "bgr"',
              "mean = [0.0, 0.0, 0.0]", "scale = 1.0             # value = (pixel - mean) * scale", f"pad = {PAD}", "",
              "[output]", 'decoder = "yolox"', "strides = [8, 16, 32]", "",
              "[regions]", "side_px = 224           # of the camera's own pixels, where something moves", "per_frame = 2", "",
              "[thresholds]", "low = 0.1               # lowest score handed to the tracker", f"nms_iou = {measure.NMS_IOU}", "",
              "# threshold: best F0.5 on the held-out slice of train (person, head, phone: set by hand); precision, recall,",
              "# ap50, ap50_95 and their 95 % intervals: dev, at that threshold."]
    for n in CLASSES:
        lines += ["[[classes]]", f'name = "{n}"']
        lines += [f'group = "{GROUPS[n]}"'] if n in GROUPS else []
        lines += [f"threshold = {limits[n]:.2f}"]
        whole = figures["x1"].get(n, {})
        lines += [f"{k} = {toml_value(whole[k])}" for k in ("precision", "precision_95", "recall", "recall_95", "ap50", "ap50_95") if whole.get(k) is not None]
        lines += [""]
    lines += training_lines("detector", "YOLOX-nano, COCO weights (Apache-2.0)", "train_detector.py", checkpoint, a.date)
    quality = {"known_failures": failures_of("kitchen"),
               "note": "x1: dev as it is; x0.45: shrunk to 0.45 of the tensor, nearer to camera size. small, medium, large: side of the object "
                       "below 6 %, 6 to 20 %, above 20 % of the picture's longer side; dim: mean luma below 70. Recall at the threshold.",
               "speed": figures["speed"]}
    for s in ("x1", "x0.45"):
        quality[f"dev {s}"] = {n: ({k: v for k, v in f.items() if k in ("objects", "ap50", "ap50_95", "precision", "recall")} | f["conditions"]
                                   if "conditions" in f else f) for n, f in figures[s].items()}
    write(path.with_suffix(".toml"), lines + quality_lines(quality))


def export_heads(a):
    from heads_net import ForExport as Classifier, HeadsNet

    checkpoint = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
    net = HeadsNet(pretrained=False)
    net.load_state_dict(checkpoint["net"])
    net.eval()
    train, held, dev = crops.parts(a.data, a.answers)
    trial = a.out / "heads.trial"
    best = None
    for doubt in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):  # as much doubt as 8 % of heads put aside allow
        write_classifier(Classifier(net, doubt), trial)
        accuracy, aside = report.balanced_covered(report.head_answers(report.onnx_predict(trial), held), held)
        print(f"doubt {doubt}: balanced accuracy {accuracy:.3f}, {aside:.3f} put aside on the held-out slice", flush=True)
        if best is None or aside <= 0.08:
            best = doubt
    trial.unlink()
    plain, small = a.out / "heads.onnx", a.out / "heads-int8.onnx"
    write_classifier(Classifier(net, best), plain)
    rng = np.random.default_rng(1)
    some = [train[i] for i in rng.permutation(len(train))[:2 * CALIBRATION]]
    tensors = [crops.cut(h.image, h.box).transpose(2, 0, 1)[None].astype(np.float32) for h in some]
    quantise.quantise(plain, small, tensors, keep_float=("/out/", "Softmax", "Sigmoid"))
    detect = report.onnx_predict(a.detector)
    for path in (plain, small):
        predict = report.onnx_predict(path)
        scores = report.smoking_scores(detect, predict, a.data, "train")
        scores = [s for s in scores if sets.held_out(s[3])]
        calm = sorted((s[1] for s in scores if not s[0]), reverse=True)
        smoking = float(np.clip(np.ceil(100 * calm[int(0.02 * len(calm))] + 1) / 100, 0.3, 0.8))
        figures = report.heads_report(report.head_answers(predict, dev), dev)
        figures["head-bare at threshold, whole path"] = report.bare_heads(detect, predict, report.of_part(a.data, "dev"), a.data, HEAD)
        figures |= smoking_figures(report.smoking_scores(detect, predict, a.data, "dev"), smoking, a.cigarette)
        x = np.zeros((1, 3, crops.HEIGHT, crops.WIDTH), np.float32)
        figures["speed"] = {"ms_one_thread": round(report.milliseconds(predict, x), 2)}
        card_of_heads(a, path, checkpoint, best, smoking, figures)
        print(path.name, json.dumps({"smoking": smoking, "dev": figures}), flush=True)


def smoking_figures(scores, smoking, cigarette):
    """Smoking per picture by the classifier, by the detector's cigarettes, and by whichever sees more."""
    either = [(s[0], max(s[1] / smoking, s[2] / cigarette), 0.0, s[3]) for s in scores]
    return {"smoking per picture, heads": per_picture(scores, 1, smoking), "smoking per picture, cigarettes": per_picture(scores, 2, cigarette),
            "smoking per picture, either": per_picture(either, 1, 1.0)}


def per_picture(scores, who, threshold):
    """Recall and false alarms per picture at a threshold, and the recall where 3 % of calm pictures alarm."""
    yes, no = [s[who] for s in scores if s[0]], sorted((s[who] for s in scores if not s[0]), reverse=True)
    hits, false = sum(v >= threshold for v in yes), sum(v >= threshold for v in no)
    at = no[int(0.03 * len(no))]
    return {"threshold": threshold, "recall": report.rounded(hits / len(yes)), "recall_95": report.wilson(hits, len(yes)),
            "false_alarms": report.rounded(false / len(no)), "false_alarms_95": report.wilson(false, len(no)),
            "recall_at_3_percent": report.rounded(np.mean([v > at for v in yes]))}


def write_classifier(net, path):
    part = path.with_suffix(".part")
    torch.onnx.export(net.eval(), torch.zeros(1, 3, crops.HEIGHT, crops.WIDTH), str(part), opset_version=17, input_names=["head"],
                      output_names=["state"], dynamo=False)
    onnx.checker.check_model(onnx.load(str(part)))
    part.replace(path)


def card_of_heads(a, path, checkpoint, doubt, smoking, figures):
    name = path.stem
    summary = ("Tells of a head found by the detector whether it wears cook's headwear, another cover or none, whether the face is bare, "
               "masked, with the mask at the chin or unseen, and whether the person smokes" + ("; int8." if "int8" in name else "."))
    lines = head_lines(name, path, a.version, summary)
    lines += ["[input]", f"width_px = {crops.WIDTH}", f"height_px = {crops.HEIGHT}", 'channels = "bgr"', "mean = [0.0, 0.0, 0.0]",
              "scale = 1.0             # value = (pixel - mean) * scale", f"pad = {crops.PAD}", "",
              "[output]", 'decoder = "heads"', "",
              "[heads]", f"of = {toml_value([CLASSES[i] for i in sets.FACES])}", "min_score = 0.2", f"width = {crops.WIDE}",
              f"above = {crops.ABOVE}", f"below = {crops.BELOW}", "",
              "[thresholds]", "low = 0.1", "nms_iou = 0.5", "",
              "# A label's score is its probability times the head's score."]
    bare = figures["head-bare at threshold, whole path"]
    for n, limit, more in (("head-hat", HEAD, {}), ("head-cover-other", HEAD, {}), ("head-bare", HEAD, bare), ("head-unclear", HEAD, {}),
                           ("smoking", smoking, {k: v for k, v in figures["smoking per picture, heads"].items() if k != "threshold"})):
        # One group: one track a head, so that a picture that says hat votes against bare.
        lines += ["[[classes]]", f'name = "{n}"'] + (['group = "head-cover"'] if n.startswith("head-") else [])
        lines += [f"threshold = {limit:.2f}"] + [f"{k} = {toml_value(v)}" for k, v in more.items() if v is not None] + [""]
    lines += training_lines("heads", "EfficientNet-Lite0, ImageNet weights (Apache-2.0)", "train_heads.py", checkpoint, a.date)
    quality = {"known_failures": failures_of("heads"),
               "note": f"On dev. unclear grows by {doubt} x 4 x covered x bare (heads_net.py). Confusion: rows are what people said, columns the network.",
               **figures}
    write(path.with_suffix(".toml"), lines + quality_lines(quality))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("which", choices=("detector", "heads"))
    ap.add_argument("--data", required=True)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--out", type=Path, default=HERE.parent)
    ap.add_argument("--answers", help="heads: what teach.py wrote")
    ap.add_argument("--detector", default=HERE.parent / "kitchen.onnx", help="heads: the detector whose heads are classified")
    ap.add_argument("--coco", help="detector: the COCO YOLOX-nano that its speed is compared with")
    ap.add_argument("--cigarette", type=float, default=0.4, help="heads: the detector's threshold for cigarettes")
    ap.add_argument("--version", default="1")
    ap.add_argument("--date", required=True)
    a = ap.parse_args()
    if a.which == "detector" and not a.coco:
        ap.error("the detector's export needs --coco")
    if a.which == "heads" and not a.answers:
        ap.error("the classifier's export needs --answers")
    failures_of("kitchen" if a.which == "detector" else "heads")
    torch.set_num_threads(1)
    (export_detector if a.which == "detector" else export_heads)(a)


if __name__ == "__main__":
    main()
