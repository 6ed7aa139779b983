"""Write the ONNX file and its card from a checkpoint.

    python export.py --data DIR --checkpoint best.pt --out ..

Thresholds are the best F0.5 on the held-out slice of train; the figures in the card are
then measured once on dev.  Both files are written beside their names and renamed, the
network first, so that a reader never finds a card without its network.
"""

import argparse
import hashlib
import json
from pathlib import Path

import onnx
import torch

import data as D
import evaluate as E
from net import CLASSES, ForExport, YoloxNano, grid

NAME = "face-mask"
SUMMARY = ("Finds faces and tells bare, masked, and mask worn wrongly (on the chin or nose uncovered); "
           "small fixed-camera views, one frame at a time.")


def write_onnx(checkpoint, path, width, height):
    """Trace the network at one size; check the shape; rename into place."""
    net = YoloxNano()
    net.load_state_dict(checkpoint["net"])
    part = path.with_suffix(".onnx.part")
    torch.onnx.export(ForExport(net).eval(), torch.zeros(1, 3, height, width), str(part), opset_version=17,
                      input_names=["images"], output_names=["output"], dynamo=False)
    model = onnx.load(str(part))
    onnx.checker.check_model(model)
    cells = len(grid(height, width)[0])
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    if shape != [1, cells, 5 + len(CLASSES)]:
        raise ValueError(f"unexpected output shape {shape}")
    part.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measure(path, data, shrinks=(1.0, 0.4)):
    """Thresholds from the held-out slice, then the dev figures at those thresholds."""
    predict, width, height = E.onnx_predict(str(path))
    ms = E.milliseconds(predict, width, height)
    held = E.parts(data, "held-out")["held-out"]
    runs = [r for s in shrinks for r in E.run(predict, held, width, height, s)]
    limits = [float(E.best_threshold(*E.curve(runs, c))) for c in range(len(CLASSES))]
    sets = E.parts(data, "dev")
    figures, everything = {}, []
    for name, pictures in sets.items():
        for s in shrinks:
            results = E.run(predict, pictures, width, height, s)
            figures[f"{name} x{s:g}"] = E.summary(results, limits) | {"pictures": len(pictures)}
            everything += results if s == 1.0 else []
    return limits, figures, E.summary(everything, limits), ms


def toml_value(v):
    if isinstance(v, str):
        return json.dumps(v, ensure_ascii=False)
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(toml_value(x) for x in v) + "]"
    return repr(v)


def quality_lines(figures, ms, failures):
    """The free part of the card: one inline table per set and class."""
    out = ["[quality]", f"ms_one_thread = {ms:.1f}", f"known_failures = {toml_value(failures)}",
           'note = "faces by side in network-input pixels: small < 20, medium 20 to 60, large > 60; '
           'x0.4 = the same pictures shrunk, nearer to camera size"']
    for name, f in figures.items():
        out += ["", f'[quality."{name}"]', f"pictures = {f['pictures']}"]
        for c in CLASSES:
            flat = [f"{k} = {f[c][k]!r}" for k in ("faces", "ap50", "ap50_95", "precision", "recall")
                    if f[c][k] is not None]
            flat += [f"{s}_{k} = {f[c][s][k]!r}" for s in E.SIZES for k in ("faces", "ap50", "recall")
                     if f[c][s][k] is not None]
            out.append(f"{c} = {{ {', '.join(flat)} }}")
    return out


def write_card(path, onnx_path, digest, size, checkpoint, measured, version, date, failures):
    """The card, in the form the application reads."""
    limits, figures, whole, ms = measured
    lines = [f'name = "{NAME}"', f'version = "{version}"', f'file = "{onnx_path.name}"', f'sha256 = "{digest}"',
             'licence = "Apache-2.0"', f"summary = {toml_value(SUMMARY)}", "",
             "[input]", f"width_px = {size[0]}", f"height_px = {size[1]}", 'channels = "bgr"',
             "mean = [0.0, 0.0, 0.0]", "scale = 1.0           # value = (pixel - mean) * scale", f"pad = {D.PAD}", "",
             "[output]", 'decoder = "yolox"', "strides = [8, 16, 32]", "",
             "[thresholds]", "low = 0.1             # lowest score handed to the tracker", "nms_iou = 0.5", "",
             "# threshold: best F0.5 on a held-out slice of train; precision, recall, ap50: mask/dev and heads/dev together."]
    for c, name in enumerate(CLASSES):
        lines += ["[[classes]]", f'name = "{name}"', 'group = "face"', f"threshold = {limits[c]:.2f}"]
        lines += [f"{k} = {whole[name][k]!r}" for k in ("precision", "recall", "ap50") if whole[name][k] is not None]
        lines += [""]
    lines += ["[training]",
              'data = ["mask/train", "heads train, complete pictures", "rodent/train, 338 pictures as background"]',
              'start = "YOLOX-nano, COCO weights (Apache-2.0)"', 'script = "models/training/train.py"',
              f'date = "{date}"', f"seed = {checkpoint['seed']}", f"epoch = {checkpoint['epoch'] + 1}", ""]
    lines += quality_lines(figures, ms, failures)
    part = path.with_suffix(".toml.part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(path)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--width", type=int, default=640)
    ap.add_argument("--height", type=int, default=384)
    ap.add_argument("--version", default="1")
    ap.add_argument("--date", default="2026-11-24")
    ap.add_argument("--failures", default="failures.txt", help="one known failure a line, for the card")
    a = ap.parse_args()
    torch.set_num_threads(1)
    checkpoint = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
    network, card = Path(a.out) / f"{NAME}.onnx", Path(a.out) / f"{NAME}.toml"
    failures = Path(a.failures)
    words = [w for w in failures.read_text().splitlines() if w.strip()] if failures.exists() else []
    digest = write_onnx(checkpoint, network, a.width, a.height)
    measured = measure(network, a.data)
    write_card(card, network, digest, (a.width, a.height), checkpoint, measured, a.version, a.date, words)
    print(json.dumps({"thresholds": measured[0], "dev": measured[1]}, indent=1))


if __name__ == "__main__":
    main()
