"""The data sets as one list of pictures, with labels that mean the same thing in all of them.

Every set labels only what it was made for: the rodent pictures show people whose faces nobody boxed, the
mask pictures show persons without a box.  Taught as background, those would be unlearnt.  So what a set
does not label comes from teachers (teach.py): sure answers become labels, doubtful ones regions that are
neither object nor background.
"""

import csv
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

cv2.setNumThreads(1)
CLASSES = ("person", "head", "face-bare", "face-masked", "face-chin", "rat", "cat", "dog", "cigarette", "phone")
INDEX = {name: i for i, name in enumerate(CLASSES)}
# Classes that are states or views of one thing: in the application they suppress each other.
GROUPS = {"head": "face", "face-bare": "face", "face-masked": "face", "face-chin": "face",
          "rat": "animal", "cat": "animal", "dog": "animal"}
FACES = tuple(INDEX[n] for n in ("head", "face-bare", "face-masked", "face-chin"))
IGNORE = -1

MASK = {"face": "face-bare", "face-masked": "face-masked", "face-mask-chin": "face-chin"}
HEADS = {"bare": "face-bare", "masked": "face-masked", "chin": "face-chin", "unseen": "head"}
# A teacher's score from which it is believed, and below which it is not listened to.
SURE = {"person": 0.5, "phone": 0.45, "cat": 0.6, "dog": 0.6, "face": 0.8}
DOUBT = {"person": 0.2, "phone": 0.15, "cat": 0.25, "dog": 0.25, "face": 0.3}
# What each set boxes itself, wherever it is seen.
OWN = {"mask": {"face"}, "heads": {"face"}, "heads-hardhat": {"face"}, "rodent": {"rat", "cat", "dog"},
       "rodent-topdown": {"rat", "cat", "dog"}, "smoking": {"cigarette"}, "negatives": {"rat", "cat", "dog", "cigarette"}}
HEAD_TO_FACE = 0.375  # share of a head box above the face box: the face box grown upward by 0.6 of its height


@dataclass
class Picture:
    """One picture: rows of [class or IGNORE, x1, y1, x2, y2] in pixels."""

    set: str
    split: str
    name: str
    image: np.ndarray
    rows: np.ndarray
    complete: frozenset  # classes of which every object is boxed, by hand or by a believed teacher


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def box_of(r, keys=("x1", "y1", "x2", "y2")):
    return [float(r[k]) for k in keys]


def own_labels(data, smokers=False):
    """{(set, split, file): rows as fractions}; without pictures that show a cigarette but do not box it,
    unless asked for."""
    data, found, out = Path(data), defaultdict(list), {}
    for name in ("mask", "rodent", "smoking", "negatives"):
        for r in rows_of(data / name / "labels.csv"):
            key = (name, r["file"].split("/")[0], f"{name}/{r['file']}")
            found[key]
            if r["class"] == "smoker":
                out[key] = None
            elif r["x1"]:
                found[key].append([INDEX[MASK.get(r["class"], r["class"])]] + box_of(r))
    for r in rows_of(data / "rodent-topdown" / "labels.csv"):
        found["rodent-topdown", r["split"], f"rodent-topdown/images/{r['file']}"].append([INDEX["rat"]] + box_of(r))
    for r in rows_of(data / "heads" / "labels.csv"):
        key = ("heads" if r["complete"] == "1" else "heads-incomplete", r["split"], f"heads/images/{r['source_image']}")
        found[key].append([INDEX[HEADS[r["face"]]]] + box_of(r, ("fx1", "fy1", "fx2", "fy2")))
    for r in rows_of(data / "heads-hardhat" / "labels.csv"):
        key = ("heads-hardhat", r["split"], f"heads-hardhat/images/{r['file']}")
        found[key]
        if r["class"] != "person":
            x1, y1, x2, y2 = box_of(r)
            found[key].append([INDEX["head"], x1, y1 + HEAD_TO_FACE * (y2 - y1), x2, y2])
    return {k: np.array(v, np.float32).reshape(-1, 5) for k, v in sorted(found.items()) if smokers or k not in out}


def overlap(a, b):
    """IoU of every row of `a` with every row of `b`; columns x1, y1, x2, y2."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    inter = np.prod(np.maximum(high - low, 0), 2)
    area = lambda v: np.prod(np.maximum(v[:, 2:4] - v[:, :2], 0), 1)
    return inter / np.maximum(area(a)[:, None] + area(b)[None] - inter, 1e-12)


def with_teachers(kind, rows, answer):
    """Adds a teacher's answers for what the set does not box. Returns rows and the complete classes."""
    own = OWN[kind.removesuffix("-incomplete")]
    rows, extra = rows.copy(), []
    mine = rows[:, 1:]
    if kind == "heads-hardhat":
        rows = face_of_heads(rows, answer["faces"])
    for name, score, *box in answer["coco"]:
        if name in own or score < DOUBT[name]:
            continue
        extra.append([INDEX[name] if score >= SURE[name] else IGNORE] + box)
    for bare, masked, *box in answer["faces"]:
        score = max(bare, masked)
        known = len(mine) and overlap(np.array([box]), mine).max() > 0.3
        if known or score < DOUBT["face"] or ("face" in own and kind != "heads-incomplete"):
            continue
        sure = score >= SURE["face"] and kind != "heads-incomplete"
        extra.append([INDEX["face-masked" if masked > bare else "face-bare"] if sure else IGNORE] + box)
    # Nobody boxed heads from behind in the mask pictures, and no teacher finds them.
    complete = set(CLASSES) - {"head", "face-chin"} | ({"face-chin"} if kind == "mask" else {"head", "face-chin"} if "face" in own else set())
    if kind == "heads-incomplete":
        complete -= {"head", "face-bare", "face-masked", "face-chin"}
    return np.concatenate([rows, np.array(extra, np.float32).reshape(-1, 5)]), frozenset(complete)


def heads_unknown(rows):
    """Ignore regions where the head of a person would be whose face nobody found.

    How much of a person a picture shows is unknown, so two sizes: of a person shown whole, and of a bust.
    """
    faces, out = rows[np.isin(rows[:, 0], FACES) | (rows[:, 0] == IGNORE)][:, 1:], []
    for _, x1, y1, x2, y2 in rows[rows[:, 0] == INDEX["person"]]:
        w, h = x2 - x1, y2 - y1
        x, y = (faces[:, 0] + faces[:, 2]) / 2, (faces[:, 1] + faces[:, 3]) / 2
        if ((x > x1) & (x < x2) & (y > y1 - 0.1 * h) & (y < y1 + 0.6 * h)).any():
            continue
        for tall in {min(0.16 * h, 0.6 * w), min(0.4 * h, 0.6 * w)}:
            middle, wide = (x1 + x2) / 2, 0.8 * tall
            out.append([IGNORE, middle - wide / 2, y1, middle + wide / 2, y1 + tall])
    return np.array(out, np.float32).reshape(-1, 5)


def face_of_heads(rows, faces):
    """Hard-hat heads in which the face teacher sees a face become that face; doubtful ones are ignored."""
    rows = rows.copy()
    for r in rows:
        for bare, masked, *box in faces:
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            if not (r[1] < x < r[3] and r[2] - 0.6 * (r[4] - r[2]) < y < r[4]) or max(bare, masked) < 0.2:
                continue
            if max(bare, masked) < 0.5:
                r[0] = IGNORE
            else:
                r[:] = [INDEX["face-masked" if masked > bare else "face-bare"]] + box
            break
    return rows


def look_hash(image):
    """256-bit gradient hash: equal for copies of one picture at other sizes."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA)
    return (small[:, 1:] > small[:, :-1]).ravel()


def dev_hashes(data):
    """Hashes of every dev picture of every set, mirrored too.

    The sets partly draw on the same sources but were split one by one, so that a picture can be `train` in
    one and `dev` in another.
    """
    out = []
    for _, split, name in own_labels(data, smokers=True):
        if split == "dev":
            image = cv2.imread(str(Path(data) / name))
            out += [look_hash(image), look_hash(image[:, ::-1])]
    return np.stack(out)


def is_copy(image, known, bits=40):
    """Whether a picture looks like one of those hashed."""
    return (known != look_hash(image)).sum(1).min() <= bits


def held_out(name, percent=6):
    """True for the slice of train that picks the epoch and the thresholds."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 100 < percent


def load(data, answers, split):
    """Every picture of a split, decoded, labels in pixels."""
    data = Path(data)
    with open(answers) as f:
        told = {a["file"]: a for a in map(json.loads, f)}
    out = []
    for (kind, part, name), rows in own_labels(data).items():
        if part != split:
            continue
        image = cv2.imread(str(data / name))
        if image is None:
            raise FileNotFoundError(data / name)
        rows, complete = with_teachers(kind, rows, told[name])
        h, w = image.shape[:2]
        rows[:, 1:] *= np.array([w, h, w, h], np.float32)
        if kind not in ("heads", "heads-hardhat"):  # those two box heads without a face themselves
            rows = np.concatenate([rows, heads_unknown(rows)])
        out.append(Picture(kind, part, name, image, rows, complete))
    return out


def parts(data, answers):
    """Train without copies of dev and without the held-out slice, the held-out slice, dev."""
    dev = load(data, answers, "dev")
    known = dev_hashes(data)
    train = [p for p in load(data, answers, "train") if not is_copy(p.image, known)]
    return [p for p in train if not held_out(p.name)], [p for p in train if held_out(p.name)], dev
