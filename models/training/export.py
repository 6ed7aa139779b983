"""Write the networks and their cards from checkpoints, fp32 and int8.

    python export.py detector --data DIR --checkpoint RUN/last.pt --smoking SMOKING/last.pt --coco yolox_nano_coco.onnx
    python export.py heads    --data DIR --answers answers.jsonl --checkpoint HEADS/best.pt
    python export.py smoking  --data DIR --checkpoint SMOKING/last.pt

Thresholds and the doubt of the classifier come from the held-out slice of train; the figures in the cards are
then measured once on dev.  Networks are written before their cards, each beside its name and then renamed, so
that a reader never finds a card without its network.  With a network that was written before as the checkpoint
(`--checkpoint ../kitchen.onnx`), its int8 copy and the cards are made again.
"""

import argparse
import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import torch

import crops
import equalise
import front
import measure
import quantise
import report
import sets
import smoking
from augment import PAD, letterbox
from net import ForExport, YoloxNano, activate, fold_norms, add_norms, grid
from sets import CLASSES, GROUPS

HERE = Path(__file__).parent
CALIBRATION = 160  # pictures
SECOND = ("Conv", "Add", "Clip")  # what is int8 in the networks of the second stage
HEAD = 0.4  # threshold of the covers: probability times the head's score
SOURCES = {
    "detector": ["mask/train", "heads train", "heads-hardhat train", "rodent/train", "rodent-topdown", "smoking/train (boxes, non-smoker, none)",
                 "negatives/train"],
    "smoking": ["smoking/train", "negatives/train", "mask/train", "heads train"],
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


def short_of(name):
    """What falls short of what was wanted, by how much, and what data would mend it; one a line."""
    path = HERE / f"short-{name}.txt"
    return [w for w in path.read_text().splitlines() if w.strip()] if path.exists() else []


def next_version(path):
    """One more than that of the card in place, unless the network is the one that is there."""
    card = path.with_suffix(".toml")
    if not card.exists():
        return "1"
    old = tomllib.loads(card.read_text())
    return old["version"] if old["sha256"] == digest(path) else str(int(old["version"]) + 1)


def made_before(path):
    """Of a network that was written before: what its card says of its checkpoint, its day, and the card."""
    card = tomllib.loads(Path(path).with_suffix(".toml").read_text())
    training = card["training"]
    return {"seed": training["seed"], "epoch": training["epoch"] - 1}, training["date"], card


INPUT = ['type = "u8"', 'channels = "bgr"', "mean = [0.0, 0.0, 0.0]", "scale = 1.0             # value = (pixel - mean) * scale"]


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
    plain, small = a.out / "kitchen.onnx", a.out / "kitchen-int8.onnx"
    tensors = calibration(a)
    if a.checkpoint.endswith(".onnx"):
        (checkpoint, a.date, _), act = made_before(a.checkpoint), "silu"
    else:
        checkpoint, act = write_detector(a, plain, tensors)
    scores = ("/cls/", "/reg/", "/obj/")
    if act == "relu":
        quantise.quantise(plain, small, tensors, keep_float=(*scores, "/heads.0/Concat", "/heads.1/Concat", "/heads.2/Concat"),
                          op_types=("Conv", "MaxPool", "Concat", "Add", "Resize"), depthwise=True)
    else:  # the activations stay fp32, so what lies between them gains nothing
        quantise.quantise(plain, small, tensors, keep_float=(*scores, "/net/stem/"))
    look = None
    if a.smoking and not a.smoking.endswith(".onnx"):
        write_smoking(torch.load(a.smoking, weights_only=True, map_location="cpu"), a.out / "smoking.onnx")
        a.smoking = a.out / "smoking.onnx"
    if a.smoking:
        look = report.onnx_predict(a.smoking)
    held, dev = report.of_part(a.data, "held-out"), report.of_part(a.data, "dev")
    for path in (plain, small):
        measure_detector(a, path, checkpoint, look, held, dev)


def calibration(a):
    rng = np.random.default_rng(1)
    train = [p for p in report.own_pictures(a.data, "train") if not sets.held_out(p.name)]
    tensors = []
    for i in rng.permutation(len(train))[:CALIBRATION]:
        h, w = train[i].image.shape[:2]
        box, _ = letterbox(train[i].image, *measure.input_shape(w, h))
        tensors.append(np.ascontiguousarray(box.transpose(2, 0, 1)[None]))
    return tensors


def write_detector(a, plain, tensors):
    checkpoint = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
    act = checkpoint.get("act", "relu")
    activate(act)
    net = add_norms(YoloxNano(len(CLASSES)))
    net.load_state_dict(checkpoint.get("smooth", checkpoint["net"]))
    net = fold_norms(net).eval()
    if act == "relu":  # scale moves through it unchanged
        equalise.equalise(net, [t.astype(np.float32) for t in tensors])
    net = ForExport(net).eval()
    part = plain.with_suffix(".part")
    # The batch is free, too: all regions of a frame go through in one run.
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output": {0: "batch", 1: "cells"}}
    torch.onnx.export(net, torch.zeros(1, 3, 320, 416), str(part), opset_version=17, input_names=["images"], output_names=["output"],
                      dynamic_axes=axes, dynamo=False)
    front.take_bytes(part)
    for width, height in ((416, 416), (544, 320), (224, 224)):
        x = np.random.default_rng(0).integers(0, 256, (1, 3, height, width), np.uint8)
        y = report.onnx_predict(part)(x)
        with torch.no_grad():
            want = net(torch.from_numpy(x).float())[0].numpy()
        assert y.shape == (len(grid(height, width)[0]), 5 + len(CLASSES)) and np.abs(y - want).max() < 2e-3, y.shape
    part.replace(plain)
    return checkpoint, act


def measure_detector(a, path, checkpoint, look, held, dev):
    predict = report.onnx_predict(path)
    results = report.detections(predict, held, look=look) + report.detections(predict, held, 0.45, look=look)
    limits = {n: report.best_threshold(results, n) if n not in ("person", "phone", "head") else 0.5 for n in CLASSES}
    limits["head"] = 0.3
    if look:
        limits["cigarette"] = smoking_thresholds(report.smoking_scores(predict, look, a.data, "train", 15))[0]
    figures = report.detector_report(predict, dev, limits, look=look)
    alone = report.class_figures(report.detections(predict, [p for p in dev if p.set == "smoking"]), "cigarette", limits["cigarette"])
    x = np.full((1, 3, 416, 416), PAD, np.uint8)
    base = report.onnx_predict(a.coco)
    pairs = [(report.milliseconds(predict, x, 20), report.milliseconds(base, x.astype(np.float32), 20)) for _ in range(9)]  # in turns
    ours, theirs = (min(p[i] for p in pairs) for i in (0, 1))
    figures["speed"] = {"ms_416_one_thread": round(ours, 2), "yolox_nano_coco_ms": round(theirs, 2), "ratio": round(ours / theirs, 3)}
    figures["alone"] = {"ap50": alone["ap50"], "ap50_95": alone["ap50_95"]}
    card_of_detector(a, path, checkpoint, limits, figures)
    print(path.name, json.dumps({"thresholds": limits, "dev": figures}), flush=True)


def card_of_detector(a, path, checkpoint, limits, figures):
    name = path.stem
    summary = ("Finds persons, heads and faces (bare, masked, mask worn wrongly), rats and mice, cats, dogs, cigarettes and phones; "
               "small fixed-camera views, one frame at a time" + ("; int8." if "int8" in name else "."))
    lines = head_lines(name, path, a.version or next_version(path), summary)
    lines += ["[input]", "width_px = 416", "height_px = 416", 'fit = "frame"           # any shape of at most that area', *INPUT, f"pad = {PAD}", "",
              "[output]", 'decoder = "yolox"', "strides = [8, 16, 32]", "",
              "[regions]", "side_px = 224           # of the camera's own pixels, where something moves", "per_frame = 2", "",
              "[thresholds]", "low = 0.05              # lowest score that anything else sees", f"nms_iou = {measure.NMS_IOU}", "",
              "# threshold: lowest within 0.02 of the best F0.5 on the held-out slice of train (person, head, phone: set by hand); precision, recall,",
              "# ap50, ap50_95 and their 95 % intervals: dev, at that threshold."]
    for n in CLASSES:
        lines += ["[[classes]]", f'name = "{n}"']
        lines += [f'group = "{GROUPS[n]}"'] if n in GROUPS else []
        lines += [f"threshold = {limits[n]:.2f}"]
        whole = figures["x1"].get(n, {})
        lines += [f"{k} = {toml_value(whole[k])}" for k in ("precision", "precision_95", "recall", "recall_95", "ap50", "ap50_95") if whole.get(k) is not None]
        lines += [""]
    lines += training_lines("detector", "YOLOX-nano, COCO weights (Apache-2.0)", "train_detector.py", checkpoint, a.date)
    quality = {"known_failures": failures_of("kitchen"), "short_of": short_of(name),
               "note": "x1: dev as it is; x0.45: shrunk to 0.45 of the tensor, nearer to camera size. small, medium, large: side of the object "
                       "below 6 %, 6 to 20 %, above 20 % of the picture's longer side; dim: mean luma below 70. Recall at the threshold. Cigarettes: after the second look of "
                       "smoking.onnx; their threshold goes with its own (models/README.md).",
               "speed": figures["speed"], "cigarettes without the second look": figures["alone"]}
    for s in ("x1", "x0.45"):
        quality[f"dev {s}"] = {n: ({k: v for k, v in f.items() if k in ("objects", "ap50", "ap50_95", "precision", "recall")} | f["conditions"]
                                   if "conditions" in f else f) for n, f in figures[s].items()}
    write(path.with_suffix(".toml"), lines + quality_lines(quality))


def export_heads(a):
    """Writes the classifier and its cards; of a network that was written before, `--checkpoint heads.onnx`, the int8
    copy and the cards."""
    train, held, dev = crops.parts(a.data, a.answers)
    plain, small = a.out / "heads.onnx", a.out / "heads-int8.onnx"
    if a.checkpoint.endswith(".onnx"):
        checkpoint, a.date, card = made_before(a.checkpoint)
        best = float(card["quality"]["note"].split("grows by ")[1].split()[0])
    else:
        checkpoint = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
        best = write_doubting(a, checkpoint, held, plain)
    rng = np.random.default_rng(1)
    some = [train[i] for i in rng.permutation(len(train))[:2 * CALIBRATION]]
    tensors = [np.ascontiguousarray(crops.cut(h.image, h.box).transpose(2, 0, 1)[None]) for h in some]
    quantise.quantise(plain, small, tensors, keep_float=("/out/", "Softmax", "Sigmoid", "^/Add"), op_types=SECOND, depthwise=True)
    detect = report.onnx_predict(a.detector)
    for path in (plain, small):
        predict = report.onnx_predict(path)
        figures = report.heads_report(report.head_answers(predict, dev), dev)
        figures["head-bare at threshold, whole path"] = report.bare_heads(detect, predict, report.of_part(a.data, "dev"), a.data, HEAD)
        x = np.zeros((1, 3, crops.HEIGHT, crops.WIDTH), np.uint8)
        figures["speed"] = {"ms_one_thread": round(report.milliseconds(predict, x), 2)}
        card_of_heads(a, path, checkpoint, best, figures)
        print(path.name, json.dumps({"dev": figures}), flush=True)


def write_doubting(a, checkpoint, held, path):
    """Writes the classifier with as much doubt as 8 % of heads put aside allow; returns the doubt."""
    from heads_net import ForExport as Classifier, HeadsNet

    net = HeadsNet(pretrained=False)
    net.load_state_dict(checkpoint["net"])
    net.eval()
    trial = a.out / "heads.trial"
    best = None
    for doubt in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
        write_classifier(Classifier(net, doubt), trial)
        accuracy, aside = report.balanced_covered(report.head_answers(report.onnx_predict(trial), held), held)
        print(f"doubt {doubt}: balanced accuracy {accuracy:.3f}, {aside:.3f} put aside on the held-out slice", flush=True)
        if best is None or aside <= 0.08:
            best = doubt
    trial.unlink()
    write_classifier(Classifier(net, best), path)
    return best


def export_smoking(a):
    plain, small = a.out / "smoking.onnx", a.out / "smoking-int8.onnx"
    if a.checkpoint.endswith(".onnx"):
        checkpoint, a.date, _ = made_before(a.checkpoint)
    else:
        checkpoint = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
        write_smoking(checkpoint, plain)
    detect = report.onnx_predict(a.detector)
    card = tomllib.loads(Path(a.detector).with_suffix(".toml").read_text())
    cigarette = next(c["threshold"] for c in card["classes"] if c["name"] == "cigarette")
    train = [h for h in smoking.load(a.data, "train", detect, 30) if not sets.held_out(h.name, 15)]
    rng = np.random.default_rng(1)
    some = [train[i] for i in rng.permutation(len(train))[:2 * CALIBRATION]]
    tensors = [np.ascontiguousarray(crops.cut(h.image, h.box, smoking.SIDE, smoking.SIDE).transpose(2, 0, 1)[None]) for h in some]
    quantise.quantise(plain, small, tensors, keep_float=("/out/", "Sigmoid"), op_types=SECOND, depthwise=True)
    for path in (plain, small):
        look = report.onnx_predict(path)
        held = report.smoking_scores(detect, look, a.data, "train", 15)
        limit = smoking_thresholds(held, [cigarette])[1]
        figures = smoking_figures(report.smoking_scores(detect, look, a.data, "dev"), limit, cigarette)
        figures["held-out slice, either"] = smoking_figures(held, limit, cigarette)["smoking per picture, either"]
        x = np.zeros((1, 3, smoking.SIDE, smoking.SIDE), np.uint8)
        figures["speed"] = {"ms_one_thread": round(report.milliseconds(look, x), 2)}
        card_of_smoking(a, path, checkpoint, limit, figures)
        print(path.name, json.dumps({"threshold": limit, "figures": figures}), flush=True)


def smoking_thresholds(held, cigarettes=np.arange(0.2, 0.9, 0.01)):
    """The thresholds of cigarettes and of heads that together find most smokers while at most 3 % of calm pictures
    alarm; of several such pairs the middle one: where a plateau of few pictures ends is chance."""
    heads = np.arange(0.4, 0.96, 0.01)
    alarm = lambda some: (np.array([s[2] for s in some])[:, None, None] >= np.array(cigarettes)[None, :, None]) | (
        np.array([s[1] for s in some])[:, None, None] >= heads[None, None])
    recall, false = (alarm([s for s in held if s[0] == w]).mean(0) for w in (True, False))
    # Where none is that calm, the calmest.
    calm = false <= max(0.03, false.min())
    pairs = np.argwhere((recall == recall[calm].max()) & calm)
    i, j = pairs[len(pairs) // 2]
    return round(float(cigarettes[i]), 2), round(float(heads[j]), 2)


def write_smoking(checkpoint, path):
    net = smoking.SmokingNet(pretrained=False)
    net.load_state_dict(checkpoint["smooth"])
    write_classifier(smoking.ForExport(net), path, (smoking.SIDE, smoking.SIDE), "square", "smoking")


def smoking_figures(scores, limit, cigarette):
    """Smoking per picture by heads, by cigarettes after and before the second look, and by whichever sees more."""
    either = [(s[0], max(s[1] / limit, s[2] / cigarette)) for s in scores]
    return {"smoking per picture, heads": per_picture(scores, 1, limit), "smoking per picture, cigarettes": per_picture(scores, 2, cigarette),
            "smoking per picture, cigarettes unmended": per_picture(scores, 4, cigarette),
            "smoking per picture, either": per_picture(either, 1, 1.0)}


def per_picture(scores, who, threshold):
    """Recall and false alarms per picture at a threshold, and the recall where 3 % of calm pictures alarm."""
    yes, no = [s[who] for s in scores if s[0]], sorted((s[who] for s in scores if not s[0]), reverse=True)
    hits, false = sum(v >= threshold for v in yes), sum(v >= threshold for v in no)
    at = no[int(0.03 * len(no))]
    return {"threshold": threshold, "recall": report.rounded(hits / len(yes)), "recall_95": report.wilson(hits, len(yes)),
            "false_alarms": report.rounded(false / len(no)), "false_alarms_95": report.wilson(false, len(no)),
            "recall_at_3_percent": report.rounded(np.mean([v > at for v in yes]))}


def write_classifier(net, path, size=(crops.HEIGHT, crops.WIDTH), given="head", answer="state"):
    part = path.with_suffix(".part")
    torch.onnx.export(net.eval(), torch.zeros(1, 3, *size), str(part), opset_version=17, input_names=[given],
                      output_names=[answer], dynamo=False)
    front.take_bytes(part)
    part.replace(path)


def card_of_heads(a, path, checkpoint, doubt, figures):
    name = path.stem
    summary = ("Tells of a head found by the detector whether it wears cook's headwear, another cover or none, whether the face is bare, "
               "masked, with the mask at the chin or unseen" + ("; int8." if "int8" in name else "."))
    lines = head_lines(name, path, a.version or next_version(path), summary)
    lines += ["[input]", f"width_px = {crops.WIDTH}", f"height_px = {crops.HEIGHT}", *INPUT, f"pad = {crops.PAD}", "",
              "[output]", 'decoder = "heads"', "",
              "[heads]", f"of = {toml_value([CLASSES[i] for i in sets.FACES])}", "min_score = 0.2", f"width = {crops.WIDE}",
              f"above = {crops.ABOVE}", f"below = {crops.BELOW}", "",
              "[thresholds]", "low = 0.1", "nms_iou = 0.5", "",
              "# A label's score is its probability times the head's score."]
    bare = figures["head-bare at threshold, whole path"]
    for n, limit, more in (("head-hat", HEAD, {}), ("head-cover-other", HEAD, {}), ("head-bare", HEAD, bare), ("head-unclear", HEAD, {})):
        # One group: one track a head, so that a picture that says hat votes against bare.
        lines += ["[[classes]]", f'name = "{n}"'] + ['group = "head-cover"']
        lines += [f"threshold = {limit:.2f}"] + [f"{k} = {toml_value(v)}" for k, v in more.items() if v is not None] + [""]
    lines += training_lines("heads", "EfficientNet-Lite0, ImageNet weights (Apache-2.0)", "train_heads.py", checkpoint, a.date)
    quality = {"known_failures": failures_of("heads"),
               "note": f"On dev. unclear grows by {doubt} x 4 x covered x bare (heads_net.py). Confusion: rows are what people said, columns the network.",
               **figures}
    write(path.with_suffix(".toml"), lines + quality_lines(quality))


def card_of_smoking(a, path, checkpoint, limit, figures):
    summary = ("Tells whether somebody smokes, in squares about heads and about what the detector takes for a cigarette"
               + ("; int8." if "int8" in path.stem else "."))
    lines = head_lines(path.stem, path, a.version or next_version(path), summary)
    lines += ["[input]", f"width_px = {smoking.SIDE}", f"height_px = {smoking.SIDE}", *INPUT, f"pad = {crops.PAD}", "", "[output]", 'decoder = "smoking"', "",
              "[smoking]", f"of = {toml_value([CLASSES[i] for i in sets.FACES])}", f"min_score = {smoking.LEAST_FACE}",
              f"width = {smoking.WIDE}             # side of the square in widths of the face", f"above = {smoking.ABOVE}             # reach above the face's top in widths",
              'cigarettes = ["cigarette"]', f"cigarettes_min_score = {smoking.LEAST_STICK}", f"cigarettes_width = {smoking.AROUND}  # side of the square in longer sides of the box",
              "per_frame = 8           # heads, and as many cigarettes", "", "[thresholds]", "low = 0.1", "nms_iou = 0.5", "",
              "# Threshold: together with that of cigarettes, at most 3 % of calm pictures of the held-out slice alarm.",
              "[[classes]]", 'name = "smoking"', f"threshold = {limit:.2f}"]
    lines += [f"{k} = {toml_value(v)}" for k, v in figures["smoking per picture, heads"].items() if k != "threshold"] + [""]
    lines += training_lines("smoking", "EfficientNet-Lite0, ImageNet weights (Apache-2.0)", "train_smoking.py", checkpoint, a.date)
    quality = {"known_failures": failures_of("smoking"), "short_of": short_of("smoking"),
               "note": "Pictures of the smoking and negatives sets, dev; somebody smokes or not. cigarettes: the detector's, after the second look, at its "
                       "card's threshold; unmended: before it. recall_at_3_percent: at the threshold that lets 3 % of these calm pictures alarm.", **figures}
    write(path.with_suffix(".toml"), lines + quality_lines(quality))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("which", choices=("detector", "heads", "smoking"))
    ap.add_argument("--data", required=True)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--out", type=Path, default=HERE.parent)
    ap.add_argument("--answers", help="heads: what teach.py wrote")
    ap.add_argument("--detector", default=HERE.parent / "kitchen.onnx", help="heads, smoking: the detector whose heads are looked at")
    ap.add_argument("--smoking", help="detector: the network that looks at its cigarettes again, or its checkpoint")
    ap.add_argument("--coco", help="detector: the COCO YOLOX-nano that its speed is compared with")
    ap.add_argument("--version", help="of the cards; without it one more than before, or as before where the network is the same")
    ap.add_argument("--date", required=True)
    a = ap.parse_args()
    if a.which == "detector" and not a.coco:
        ap.error("the detector's export needs --coco")
    if a.which == "heads" and not a.answers:
        ap.error("the classifier's export needs --answers")
    failures_of("kitchen" if a.which == "detector" else a.which)
    torch.set_num_threads(1)
    {"detector": export_detector, "heads": export_heads, "smoking": export_smoking}[a.which](a)


if __name__ == "__main__":
    main()
