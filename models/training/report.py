"""Figures of the networks on a part of the data, measured the way the application runs them."""

import numpy as np

import crops
import measure
import sets
import smoking
from sets import CLASSES, INDEX, overlap

# What people boxed, of which a figure can be trusted; a set's other classes are not judged on it.
JUDGED = {"mask": ("face-bare", "face-masked", "face-chin"), "heads": ("head", "face-bare", "face-masked", "face-chin"),
          "rodent": ("rat", "cat", "dog"), "smoking": ("cigarette",), "negatives": ("rat", "cat", "dog", "cigarette")}
# Side of the object (square root of its area) as a share of the picture's longer side.
SIZES = {"small": (0, 0.06), "medium": (0.06, 0.2), "large": (0.2, 1e9)}
DIM = 70  # mean luma of 255 below which a picture counts as dim


def onnx_predict(path, threads=1):
    """A session as a function of an input array."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pixels = session.get_inputs()[0]
    kind = np.uint8 if pixels.type == "tensor(uint8)" else np.float32
    return lambda x: session.run(None, {pixels.name: x.astype(kind)})[0][0]


def wilson(hits, total):
    """95 % confidence interval of a share (Wilson 1927)."""
    if not total:
        return None
    z, p = 1.96, hits / total
    middle, spread = p + z * z / (2 * total), z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return [round(float(v / (1 + z * z / total)), 3) for v in (middle - spread, middle + spread)]


def rounded(v):
    return None if v is None else round(float(v), 3)


def own_pictures(data, split):
    """Pictures with what people boxed in them, and nothing of the teachers'."""
    import cv2
    from pathlib import Path

    out = []
    for (kind, part, name), rows in sets.own_labels(data).items():
        if part == split and (kind in JUDGED or kind == "heads-hardhat"):
            image = cv2.imread(str(Path(data) / name))
            h, w = image.shape[:2]
            rows = rows.copy()
            rows[:, 1:] *= np.array([w, h, w, h], np.float32)
            out.append(sets.Picture(kind, part, name, image, rows, frozenset(JUDGED.get(kind, ()))))
    return out


def of_part(data, part):
    """`dev`, or `held-out`: the slice of train that picked epochs and thresholds."""
    if part == "dev":
        return own_pictures(data, "dev")
    known = sets.dev_hashes(data)
    return [p for p in own_pictures(data, "train") if sets.held_out(p.name) and not sets.is_copy(p.image, known)]


def detections(predict, pictures, shrink=1.0, low=measure.LOW, look=None):
    """What a detector sees; with `look`, the network of squares, cigarettes after the second look. A shrunk picture is
    looked at as it is: the second look has the camera's own pixels."""
    seen = [(measure.see(predict, p.image, low, shrink), p) for p in pictures]
    return [(mended(look, p.image, rows, heads=False)[0], p) for rows, p in seen] if look else seen


def counts(results, cls, threshold):
    """Hits, detections and objects of a class at a threshold, over pictures judged for it."""
    rows, total = measure.curve(results, cls)
    kept = rows[rows[:, 0] >= threshold]
    return int(kept[:, 1].sum()), len(kept), total


def class_figures(results, name, threshold):
    c = INDEX[name]
    rows, total = measure.curve(results, c)
    if not total:
        return None
    hits, found, _ = counts(results, c, threshold)
    strict = [measure.average_precision(*measure.curve(results, c, i)) for i in measure.IOUS]
    return {"objects": total, "ap50": rounded(measure.average_precision(rows, total)), "ap50_95": rounded(np.mean(strict)),
            "precision": rounded(hits / found) if found else None, "precision_95": wilson(hits, found),
            "recall": rounded(hits / total), "recall_95": wilson(hits, total)}


def side_share(p, rows):
    return np.sqrt(np.prod(rows[:, 3:] - rows[:, 1:3], 1)) / max(p.image.shape[:2])


def conditions(results, name, threshold):
    """AP50 and recall by size of the object and by light of the picture."""
    c, out = INDEX[name], {}
    light = {"dim": [r for r in results if r[1].image.mean() < DIM], "lit": [r for r in results if r[1].image.mean() >= DIM]}
    for label, some in light.items():
        rows, total = measure.curve(some, c)
        if total:
            hits, found, _ = counts(some, c, threshold)
            out[label] = {"objects": total, "ap50": rounded(measure.average_precision(rows, total)), "recall": rounded(hits / total)}
    for label, (low, high) in SIZES.items():
        total = hits = 0
        for rows, p in results:
            if name in p.complete:
                mine = p.rows[p.rows[:, 0] == c][:, 1:]
                share = side_share(p, np.c_[np.zeros(len(mine)), mine]) if len(mine) else np.zeros(0)
                mine = mine[(share >= low) & (share < high)]
                sure = rows[(rows[:, 5] == c) & (rows[:, 0] >= threshold)]
                total += len(mine)
                if len(mine) and len(sure):
                    hits += int((overlap(mine, sure[:, 1:5]).max(1) >= 0.5).sum())
        if total:
            out[label] = {"objects": total, "recall": rounded(hits / total)}
    return out


def taken_for_rats(results, threshold):
    """Cats and dogs that a rat box at the threshold lies on: [how many, of how many], and pictures without
    any animal in which a rat is seen."""
    taken = total = false = empty = 0
    for rows, p in results:
        if "rat" not in p.complete:
            continue
        rats = rows[(rows[:, 5] == INDEX["rat"]) & (rows[:, 0] >= threshold)]
        pets = p.rows[np.isin(p.rows[:, 0], (INDEX["cat"], INDEX["dog"]))]
        total += len(pets)
        if len(pets) and len(rats):
            taken += int((overlap(pets[:, 1:], rats[:, 1:5]).max(1) > 0.3).sum())
        if not len(p.rows):
            empty += 1
            false += bool(len(rats))
    return {"pets": total, "pets_taken": taken, "empty_pictures": empty, "empty_with_rat": false}


def heads_found(results, threshold):
    """Recall and precision of heads of all poses (heads-hardhat), whatever their state."""
    hits = total = right = found = 0
    for rows, p in results:
        if p.set != "heads-hardhat":
            continue
        mine = p.rows[(p.rows[:, 3] - p.rows[:, 1]) >= 8][:, 1:]
        sure = rows[np.isin(rows[:, 5], sets.FACES) & (rows[:, 0] >= threshold)][:, 1:5]
        total, found = total + len(mine), found + len(sure)
        if len(mine) and len(sure):
            iou = overlap(mine, sure)
            hits, right = hits + int((iou.max(1) > 0.3).sum()), right + int((iou.max(0) > 0.3).sum())
    return {"heads": total, "recall": rounded(hits / max(1, total)), "precision": rounded(right / max(1, found))}


def best_threshold(results, name, floor=0.25, ceiling=0.8, beta=0.5):
    """The lowest score, on a grid of 0.05, whose F-beta is within 0.02 of the best; 0.5 counts precision above recall.

    A camera looks at the same shelf all day: a false object there is a false alarm that stays, while one that
    is missed in a frame is usually seen in the next.  But where few objects say that two scores are as good,
    the lower finds more, and rules ask for several pictures before they tell.
    """
    def f_beta(t):
        hits, found, total = counts(results, INDEX[name], t)
        if not hits:  # where nothing is found the highest threshold is the honest one
            return t * 1e-6
        p, r = hits / found, hits / total
        return (1 + beta**2) * p * r / (beta**2 * p + r)

    scores = {float(t): f_beta(t) for t in np.arange(floor, ceiling + 1e-6, 0.05).round(2)}
    best = max(scores.values())
    if best < 0.01:  # nothing is found anywhere
        return max(scores)
    return min(t for t, f in scores.items() if f >= best - 0.02)


def detector_report(predict, pictures, thresholds, shrinks=(1.0, 0.45), look=None):
    """All figures of the detector; `thresholds` by class name."""
    out = {}
    for s in shrinks:
        results = detections(predict, pictures, s, look=look)
        part = out[f"x{s:g}"] = {}
        for name in CLASSES:
            figures = class_figures(results, name, thresholds[name])
            if figures:
                part[name] = figures | {"conditions": conditions(results, name, thresholds[name])}
        part["pets_and_rats"] = taken_for_rats(results, thresholds["rat"])
        part["heads_of_all_poses"] = heads_found(results, 0.3)
    return out


def head_answers(predict, heads):
    """Probabilities [N, 9] of the crops as the application cuts them."""
    return np.stack([predict(crops.cut(h.image, h.box).transpose(2, 0, 1)[None].astype(np.float32)) for h in heads])


def balanced_covered(p, heads):
    """Of heads labelled hat, cover-other or bare: balanced accuracy of covered against bare over those that are
    not put aside as unclear, and the share put aside."""
    known = [i for i, h in enumerate(heads) if h.set == "heads" and h.cover in (0, 1, 2)]
    want = np.array([heads[i].cover == 2 for i in known])
    got = p[known][:, :4].argmax(1)
    aside = got == 3
    keep = ~aside
    right = [(got[keep & (want == b)] == 2).mean() if b else (got[keep & (want == b)] != 2).mean() for b in (False, True)]
    return float(np.mean(right)), float(aside.mean())


def confusion(want, got, n):
    table = np.zeros((n, n), int)
    for w, g in zip(want, got):
        table[w, g] += 1
    return table.tolist()


def heads_report(p, heads):
    """Confusions of both classifiers, and covered against bare."""
    out = {}
    for name, some in (("heads", "heads"), ("heads-hardhat", "heads-hardhat")):
        ix = [i for i, h in enumerate(heads) if h.set == some and h.cover >= 0]
        if ix:
            out[f"cover {name}"] = {"of": crops.COVERS, "confusion": confusion([heads[i].cover for i in ix], p[ix, :4].argmax(1), 4)}
    for name in ("heads", "mask"):
        ix = [i for i, h in enumerate(heads) if h.set == name and h.face >= 0]
        if ix:
            out[f"face {name}"] = {"of": crops.FACES, "confusion": confusion([heads[i].face for i in ix], p[ix, 4:8].argmax(1), 4)}
    accuracy, aside = balanced_covered(p, heads)
    out["covered or bare"] = {"balanced_accuracy": rounded(accuracy), "put_aside": rounded(aside)}
    return out


def bare_heads(detect, classify, pictures, data, threshold):
    """head-bare by way of the detector's own heads, as the application does it: a label's score is its
    probability times the head's. On the completely labelled pictures of the heads set; unclear ones do not count."""
    labelled = {}
    for r in sets.rows_of(f"{data}/heads/labels.csv"):
        labelled.setdefault(f"heads/images/{r['source_image']}", []).append((r["head"], sets.box_of(r, ("fx1", "fy1", "fx2", "fy2"))))
    hits = found = total = 0
    for p in pictures:
        if p.set != "heads":
            continue
        h, w = p.image.shape[:2]
        faces = np.array([b for _, b in labelled[p.name]]) * [w, h, w, h]
        kinds = [k for k, _ in labelled[p.name]]
        total += kinds.count("bare")
        rows = measure.see(detect, p.image, 0.2)
        for r in rows[np.isin(rows[:, 5], sets.FACES)]:
            cover = classify(crops.cut(p.image, crops.head_of_face(r[1:5])).transpose(2, 0, 1)[None].astype(np.float32))[:4]
            if cover.argmax() != 2 or cover[2] * r[0] < threshold:
                continue
            iou = overlap(r[None, 1:5], faces)[0]
            kind = kinds[int(iou.argmax())] if iou.max() > 0.3 else "none"
            found += kind != "unclear"
            hits += kind == "bare"
    return {"heads": total, "precision": rounded(hits / max(1, found)), "precision_95": wilson(hits, found),
            "recall": rounded(hits / max(1, total)), "recall_95": wilson(hits, total)}


def mended(look, image, rows, heads=True):
    """A detector's rows after the second look at cigarettes, and the probability of each face's square. `look`: the network of squares, [1, 3, S, S] to [1]. As the application does it."""
    ask = lambda square: float(look(crops.cut(image, square, smoking.SIDE, smoking.SIDE).transpose(2, 0, 1)[None].astype(np.float32))[0])
    rows = rows.copy()
    for i in np.nonzero((rows[:, 5] == INDEX["cigarette"]) & (rows[:, 0] >= smoking.LEAST_STICK))[0]:
        rows[i, 0] = np.cbrt(rows[i, 0] * ask(smoking.square_of_stick(rows[i, 1:5])) ** 2)
    faces = rows[np.isin(rows[:, 5], sets.FACES) & (rows[:, 0] >= smoking.LEAST_FACE)] if heads else rows[:0]
    return rows[np.argsort(-rows[:, 0], kind="stable")], [ask(smoking.square_of_face(f[1:5])) for f in faces]


def smoking_scores(detect, look, data, split, percent=100):
    """Per picture of the smoking and negatives sets: whether somebody smokes, the best head's probability, the best cigarette's score after the second look, the name, the best cigarette's score before it.
    `percent`: only the slice that is held out so."""
    import cv2
    from pathlib import Path

    out = []
    for (kind, part, name), _ in sorted(crops.smokers(data).items()):
        if part != split or not sets.held_out(name, percent):
            continue
        image = cv2.imread(str(Path(data) / name))
        rows = measure.see(detect, image)
        after, heads = mended(look, image, rows)
        best = lambda r: float(r[r[:, 5] == INDEX["cigarette"], 0].max(initial=0.0))
        out.append((kind in ("smoker", "cigarette"), max(heads, default=0.0), best(after), name, best(rows)))
    return out


def milliseconds(predict, x, times=60):
    """Shortest time of one picture through a network: what other work on the machine cannot shorten."""
    import time

    spent = []
    for _ in range(times):
        start = time.perf_counter()
        predict(x)
        spent.append((time.perf_counter() - start) * 1000)
    return min(spent)
