"""Measure the exported network the way the application runs it.

    python evaluate.py --data DIR --model ../face-mask.onnx --part dev

ONNX Runtime, one thread, the application's letterbox, decoding and suppression.
Prints JSON: AP50, AP50:95 and, at the shipped thresholds, precision and recall per
class and by face size, on every set at full size and shrunk.
"""

import argparse
import json
import time

import numpy as np

import data as D
from net import CLASSES, STRIDES

IOUS = np.arange(0.5, 1.0, 0.05)
# Side of the face (square root of its area) in pixels of the network's input.
SIZES = {"small": (0, 20), "medium": (20, 60), "large": (60, 1e9)}


def decode(raw, width, height, low):
    """Output tensor [A, 5 + C] to rows of x1, y1, x2, y2, score, class above `low`."""
    xs, ys, ss = [], [], []
    for s in STRIDES:
        gy, gx = np.mgrid[:height // s, :width // s]
        xs.append(gx.ravel()), ys.append(gy.ravel()), ss.append(np.full(gx.size, s))
    x, y, s = (np.concatenate(v).astype(np.float32) for v in (xs, ys, ss))
    score = raw[:, 4:5] * raw[:, 5:]
    cls = score.argmax(1)
    best = score.max(1)
    keep = best >= low
    cx, cy = (raw[keep, 0] + x[keep]) * s[keep], (raw[keep, 1] + y[keep]) * s[keep]
    w, h = (np.exp(np.minimum(raw[keep, k], 12)) * s[keep] for k in (2, 3))
    return np.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, best[keep], cls[keep]), 1)


def overlaps(a, b):
    """IoU of every box of `a` with every box of `b`, and the share of `a` inside `b`."""
    lo = np.maximum(a[:, None, :2], b[None, :, :2])
    hi = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    inter = np.prod(np.maximum(hi - lo, 0), 2)
    area = lambda v: np.prod(np.maximum(v[:, 2:4] - v[:, :2], 0), 1)
    one = area(a)[:, None]
    return inter / np.maximum(one + area(b)[None] - inter, 1e-9), inter / np.maximum(one, 1e-9)


def suppress(rows, iou=0.5):
    """Greedy suppression across the classes: one face is in one state."""
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    keep = []
    while len(rows):
        keep.append(rows[0])
        rows = rows[1:][overlaps(rows[:1], rows[1:])[0][0] <= iou]
    return np.array(keep, np.float32).reshape(-1, 6)


def match(dets, truth, cls, iou, size):
    """Greedy matching in one picture: [(score, hit)] and the number of faces to find.

    Ignore regions and faces outside `size` neither count nor punish.
    """
    mine = truth[truth[:, 0] == cls][:, 1:]
    side = np.sqrt(np.prod(mine[:, 2:] - mine[:, :2], 1))
    inside = (side >= size[0]) & (side < size[1])
    skip = truth[truth[:, 0] == D.IGNORE][:, 1:]
    rows, used = [], np.zeros(len(mine), bool)
    for d in dets[dets[:, 5] == cls]:
        v = overlaps(d[None], mine)[0][0] if len(mine) else np.zeros(0)
        v = np.where(used, 0, v)
        if len(v) and v.max() >= iou:
            used[v.argmax()] = True
            if inside[v.argmax()]:
                rows.append((d[4], 1))
            continue
        if len(skip) and overlaps(d[None], skip)[1].max() > 0.5:
            continue
        if size[0] <= np.sqrt(np.prod(d[2:4] - d[:2])) < size[1]:
            rows.append((d[4], 0))
    return rows, int(inside.sum())


def curve(results, cls, iou=0.5, size=(0, 1e9)):
    """Scores and hits over all pictures, best first, and the number of faces."""
    rows, total = [], 0
    for dets, truth in results:
        r, n = match(dets, truth, cls, iou, size)
        rows += r
        total += n
    rows = np.array(sorted(rows, key=lambda r: -r[0])).reshape(-1, 2)
    return rows, total


def average_precision(rows, total):
    """Area under the precision envelope; None where there is nothing to find."""
    if not total:
        return None
    if not len(rows):
        return 0.0
    hits = rows[:, 1].cumsum()
    precision = hits / np.arange(1, len(rows) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * rows[:, 1]).sum() / total)


def at_threshold(rows, total, threshold):
    """Precision and recall at a score threshold."""
    kept = rows[rows[:, 0] >= threshold] if len(rows) else rows
    hits = float(kept[:, 1].sum()) if len(kept) else 0.0
    return (hits / len(kept) if len(kept) else None), (hits / total if total else None)


def best_threshold(rows, total, floor=0.3, ceiling=0.8, beta=0.5):
    """The score with the best F-beta on a grid of 0.05; 0.5 counts precision above recall.

    A camera looks at the same shelf all day: a false face there is a false alarm that
    stays, while a face missed in one frame is usually seen in the next.
    """
    def f_beta(t):
        p, r = at_threshold(rows, total, t)
        return 0.0 if not p or not r else (1 + beta**2) * p * r / (beta**2 * p + r)
    return max(np.arange(floor, ceiling + 1e-6, 0.05).round(2), key=f_beta)


def rounded(v):
    return None if v is None else round(float(v), 3)


def summary(results, thresholds):
    """All figures of one set."""
    out = {}
    for c, name in enumerate(CLASSES):
        rows, total = curve(results, c)
        strict = [average_precision(*curve(results, c, i)) for i in IOUS]
        p, r = at_threshold(rows, total, thresholds[c])
        out[name] = {"faces": total, "ap50": rounded(average_precision(rows, total)),
                     "ap50_95": rounded(np.mean(strict)) if total else None,
                     "threshold": float(thresholds[c]), "precision": rounded(p), "recall": rounded(r)}
        for label, span in SIZES.items():
            rows, total = curve(results, c, size=span)
            p, r = at_threshold(rows, total, thresholds[c])
            out[name][label] = {"faces": total, "ap50": rounded(average_precision(rows, total)),
                                "precision": rounded(p), "recall": rounded(r)}
    return out


def run(predict, pictures, width, height, shrink=1.0, low=0.05):
    """Detections and truth, in input pixels, for every picture. `predict`: [1,3,H,W] -> [A,5+C]."""
    results = []
    for _, img, rows in pictures:
        box, f = D.letterbox(img, width, height, shrink)
        raw = predict(box.transpose(2, 0, 1)[None].astype(np.float32))
        truth = rows.copy()
        truth[:, 1:] *= f
        results.append((suppress(decode(raw, width, height, low)), truth))
    return results


def onnx_predict(path):
    """A one-thread ONNX Runtime session as a function, and its input size."""
    import onnxruntime as ort

    opts = ort.SessionOptions()
    opts.intra_op_num_threads = opts.inter_op_num_threads = 1
    session = ort.InferenceSession(path, opts, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[2:]
    return (lambda x: session.run(["output"], {"images": x})[0][0]), width, height


def milliseconds(predict, width, height, times=30):
    """Median time of one picture through the network alone."""
    x = np.full((1, 3, height, width), D.PAD, np.float32)
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        predict(x)
        spent.append((time.perf_counter() - start) * 1000)
    return float(np.median(spent))


def parts(data, part):
    """The named sets: `dev`, or `held-out` (the slice of train that picked epoch and thresholds)."""
    dev = {"mask/dev": D.load(D.read_mask(data, "dev")), "heads/dev": D.load(D.read_heads(data, "dev"))}
    if part == "dev":
        return dev
    train = D.load(D.read_mask(data, "train") + D.read_heads(data, "train"))
    train = D.without_copies(train, [p for pictures in dev.values() for p in pictures])
    return {"held-out": [p for p in train if D.held_out(p[0])]}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--model", required=True)
    ap.add_argument("--part", choices=("dev", "held-out"), default="dev")
    ap.add_argument("--thresholds", type=float, nargs=3, help="default: best F0.5 on this part")
    ap.add_argument("--shrink", type=float, nargs="*", default=[1.0, 0.4])
    a = ap.parse_args()
    predict, width, height = onnx_predict(a.model)
    report = {"input": [width, height], "ms_one_thread": round(milliseconds(predict, width, height), 1)}
    for name, pictures in parts(a.data, a.part).items():
        for s in a.shrink:
            results = run(predict, pictures, width, height, s)
            limits = a.thresholds or [best_threshold(*curve(results, c)) for c in range(len(CLASSES))]
            report[f"{name} x{s:g}"] = summary(results, limits)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
