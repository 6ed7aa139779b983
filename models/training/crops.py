"""Crops of heads with what each set knows about them, for the classifier.

A head has three labels, each on its own: cover, face, smoking; UNKNOWN where the set does not say.  The crop
follows from the face box, as in the application: 2.2 widths wide about its middle, from 1.5 heights above its
top to 1.3 below.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import sets
from augment import camera

COVERS = ("hat", "cover-other", "bare", "unclear")
FACES = ("bare", "masked", "chin", "unseen")
WIDTH, HEIGHT = 96, 128  # px of the network's input; crops are stretched to it
WIDE, ABOVE, BELOW = 2.2, 1.5, 1.3
PAD = 114
UNKNOWN = -1


@dataclass
class Head:
    """One head in a picture; `box` is its crop in pixels of the picture."""

    set: str
    name: str
    image: np.ndarray
    box: np.ndarray
    cover: int = UNKNOWN
    face: int = UNKNOWN
    smoking: int = UNKNOWN
    weight: float = 1.0  # how far the labels are believed
    hard: bool = False


def head_of_face(box):
    """The crop that belongs to a face box [x1, y1, x2, y2]."""
    x1, y1, x2, y2 = box
    w, h, middle = x2 - x1, y2 - y1, (x1 + x2) / 2
    return np.array([middle - WIDE / 2 * w, y1 - ABOVE * h, middle + WIDE / 2 * w, y1 + BELOW * h])


def load(data, answers, split):
    """All heads of a split, and the pictures they come from (for the search for copies)."""
    data = Path(data)
    with open(answers) as f:
        told = {a["file"]: a for a in map(json.loads, f)}
    pictures, heads = {}, []

    def picture(name):
        if name not in pictures:
            image = cv2.imread(str(data / name))
            if image is None:
                raise FileNotFoundError(data / name)
            pictures[name] = image
        return pictures[name]

    def pixels(name, box):
        h, w = picture(name).shape[:2]
        return np.array(box) * np.array([w, h, w, h])

    for r in sets.rows_of(data / "heads" / "labels.csv"):
        if r["split"] == split:
            name = f"heads/images/{r['source_image']}"
            # The set's own crop is clipped to the picture; the application pads instead.
            box = head_of_face(pixels(name, sets.box_of(r, ("fx1", "fy1", "fx2", "fy2"))))
            heads.append(Head("heads", name, picture(name), box, COVERS.index(r["head"]), FACES.index(r["face"]), 0,
                              hard=r["hard"] == "1"))
    for r in sets.rows_of(data / "mask" / "labels.csv"):
        if r["file"].startswith(split + "/"):
            name = "mask/" + r["file"]
            box = pixels(name, sets.box_of(r))
            if box[2] - box[0] < 8:
                continue
            face = FACES.index({"face": "bare", "face-masked": "masked", "face-mask-chin": "chin"}[r["class"]])
            heads.append(Head("mask", name, picture(name), head_of_face(box), face=face, smoking=0))
    for r in sets.rows_of(data / "heads-hardhat" / "labels.csv"):
        if r["split"] == split and r["class"] != "person":
            name = "heads-hardhat/images/" + r["file"]
            x1, y1, x2, y2 = pixels(name, sets.box_of(r))
            if x2 - x1 < 10:
                continue
            # As wide as the head: what the detector, taught the same, calls a head that shows no face.
            face_box = np.array([x1, y1 + sets.HEAD_TO_FACE * (y2 - y1), x2, y2])
            cover = COVERS.index("cover-other" if r["class"] == "helmet" else "bare")
            near = [f for f in told[name]["faces"] if inside(pixels(name, f[2:]), (x1, y1, x2, y2))]
            best = max((max(f[:2]) for f in near), default=0.0)
            head = Head("heads-hardhat", name, picture(name), head_of_face(face_box), cover, smoking=0)
            if best < 0.1:  # mostly seen from behind, some merely too dark for the teacher
                head.face, head.weight = FACES.index("unseen"), 0.5
            heads.append(head)
    for (kind, part, name), rows in sorted(smokers(data).items()):
        if part != split:
            continue
        faces = [pixels(name, f[2:]) for f in told[name]["faces"] if max(f[:2]) >= 0.5]
        for face in faces:
            box, smoking = head_of_face(face), 0
            if kind == "cigarette":
                smoking = 1 if any(inside(pixels(name, c), box) for c in rows) else UNKNOWN
            elif kind == "smoker":
                smoking = 1 if len(faces) == 1 else UNKNOWN
            if smoking != UNKNOWN and face[2] - face[0] >= 8:
                # A smoker's cigarette has no box: it may lie outside the crop.
                heads.append(Head("smoking", name, picture(name), box, smoking=smoking,
                                  weight=0.7 if kind == "smoker" else 1.0))
    return heads, pictures


def smokers(data):
    """{(kind, split, file): cigarette boxes} of the sets that say who smokes."""
    out = {}
    for name in ("smoking", "negatives"):
        for r in sets.rows_of(Path(data) / name / "labels.csv"):
            key = (r["class"], r["file"].split("/")[0], f"{name}/{r['file']}")
            out.setdefault(key, [])
            if r["x1"]:
                out[key].append(sets.box_of(r))
    return out


def inside(small, big):
    """Whether the middle of `small` lies in `big`."""
    x, y = (small[0] + small[2]) / 2, (small[1] + small[3]) / 2
    return big[0] < x < big[2] and big[1] < y < big[3]


def parts(data, answers):
    """Train without copies of dev and without the held-out slice, the held-out slice, dev."""
    dev, _ = load(data, answers, "dev")
    train, pictures = load(data, answers, "train")
    known = sets.dev_hashes(data)
    copies = {n for n, i in pictures.items() if sets.is_copy(i, known)}
    train = [h for h in train if h.name not in copies]
    return ([h for h in train if not sets.held_out(h.name, 10)], [h for h in train if sets.held_out(h.name, 10)], dev)


def cut(image, box, width=WIDTH, height=HEIGHT):
    """A crop stretched to the input, averaged where it shrinks; what lies outside the picture is PAD."""
    h, w = image.shape[:2]
    out = np.full((height, width, 3), PAD, np.uint8)
    spans = []
    for low, high, limit, to in ((box[0], box[2], w, width), (box[1], box[3], h, height)):
        factor = to / max(high - low, 1.0)
        first, last = int(max(np.floor(low), 0)), int(min(np.ceil(high), limit))
        a, b = (int(np.clip(np.floor((v - low) * factor + 0.5), 0, to)) for v in (first, last))
        spans.append((first, last, a, b))
    (x1, x2, a1, b1), (y1, y2, a2, b2) = spans
    if x2 <= x1 or y2 <= y1 or b1 <= a1 or b2 <= a2:
        return out
    shrinks = (x2 - x1) > (b1 - a1)
    part = cv2.resize(image[y1:y2, x1:x2], (b1 - a1, b2 - a2), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    out[a2:b2, a1:b1] = part
    return out


def augmented(head, rng, width=WIDTH, height=HEIGHT, least=12, wide=WIDE):
    """The head as another camera and another detector would have shown it: faces down to `least` px."""
    x1, y1, x2, y2 = head.box
    w, h = x2 - x1, y2 - y1
    scale = np.exp(rng.uniform(-0.16, 0.16, 2))
    x, y = (x1 + x2) / 2 + rng.normal(0, 0.04) * w, (y1 + y2) / 2 + rng.normal(0, 0.04) * h
    box = np.array([x - w * scale[0] / 2, y - h * scale[1] / 2, x + w * scale[0] / 2, y + h * scale[1] / 2])
    image = head.image
    if rng.random() < 0.35:
        turn = rng.uniform(-25, 25) if rng.random() < 0.85 else rng.uniform(-70, 70)
        m = cv2.getRotationMatrix2D((float(x), float(y)), turn, 1)
        image = cv2.warpAffine(image, m, image.shape[1::-1], borderValue=(PAD,) * 3, flags=cv2.INTER_LINEAR)
    if rng.random() < 0.35:  # a head further away: few pixels, enlarged
        f = rng.uniform(least, 40) / (w / wide)
        if f < 1:
            nw, nh = max(4, int(w * scale[0] * f)), max(4, int(h * scale[1] * f))
            small = cut(image, box, nw, nh)
            out = cut(small, np.array([0, 0, nw, nh], float), width, height)
        else:
            out = cut(image, box, width, height)
    else:
        out = cut(image, box, width, height)
    if rng.random() < 0.5:
        out = out[:, ::-1]
    out = np.ascontiguousarray(out)
    if rng.random() < 0.15:  # something in front of an edge of the crop
        side, depth = int(rng.integers(4)), rng.uniform(0.1, 0.25)
        tone = [int(v) for v in rng.uniform(0, 255, 3)]
        dx, dy = int(depth * width), int(depth * height)
        corners = [((0, 0), (dx, height)), ((width - dx, 0), (width, height)), ((0, height - dy), (width, height)), ((0, 0), (width, dy // 2))][side]
        cv2.rectangle(out, *corners, tone, -1)
    return camera(out, rng) if rng.random() < 0.8 else out
