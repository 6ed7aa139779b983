"""Pictures and labels: reading, the train / held-out split, and the augmentation.

A picture's faces are rows of [class, x1, y1, x2, y2] in pixels.  Class -1 marks an
"ignore" region: neither a face to find nor background.
"""

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

cv2.setNumThreads(1)
PAD = 114
IGNORE = -1
MASK_SET = {"face": 0, "face-masked": 1, "face-mask-chin": 2}
HEADS_SET = {"bare": 0, "masked": 1, "chin": 2, "unseen": IGNORE}
SMALLEST = 4.0  # px; a face below this after augmentation teaches nothing


def read_mask(data, split):
    """Pictures of the `mask` set: [(path, rows with corners as fractions)]."""
    found = defaultdict(list)
    with open(Path(data) / "mask" / "labels.csv", newline="") as f:
        for r in csv.DictReader(f):
            if r["file"].startswith(split + "/"):
                found[r["file"]].append([MASK_SET[r["class"]]] + [float(r[k]) for k in ("x1", "y1", "x2", "y2")])
    return [(Path(data) / "mask" / k, np.array(v, np.float32)) for k, v in sorted(found.items())]


def read_heads(data, split):
    """Completely labelled pictures of the `heads` set; faces that cannot be seen are ignored."""
    found = defaultdict(list)
    with open(Path(data) / "heads" / "labels.csv", newline="") as f:
        for r in csv.DictReader(f):
            if r["split"] == split and r["complete"] == "1":
                box = [float(r[k]) for k in ("fx1", "fy1", "fx2", "fy2")]
                found[r["source_image"]].append([HEADS_SET[r["face"]]] + box)
    return [(Path(data) / "heads" / "images" / k, np.array(v, np.float32)) for k, v in sorted(found.items())]


def read_backgrounds(data):
    """Animal pictures without people, listed beside this file."""
    names = (Path(__file__).parent / "backgrounds.txt").read_text().split()
    return [(Path(data) / n, np.zeros((0, 5), np.float32)) for n in names]


def load(items):
    """Decode every picture once and turn fractions into pixels."""
    out = []
    for path, rows in items:
        img = cv2.imread(str(path))
        if img is None:
            raise FileNotFoundError(path)
        h, w = img.shape[:2]
        rows = rows.copy()
        rows[:, 1:] *= np.array([w, h, w, h], np.float32)
        out.append((path.name, img, rows))
    return out


def look_hash(img):
    """256-bit gradient hash: equal for copies of one picture at other sizes."""
    g = cv2.resize(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY), (17, 16), interpolation=cv2.INTER_AREA)
    return (g[:, 1:] > g[:, :-1]).ravel()


def without_copies(train, dev, bits=40):
    """Drop train pictures that look like a dev picture, mirrored or not.

    The two sets partly draw on the same sources but were split separately, so a
    picture can be `train` in one and `dev` in the other.
    """
    known = np.stack([h for _, img, _ in dev for h in (look_hash(img), look_hash(img[:, ::-1]))])
    return [t for t in train if (known != look_hash(t[1])).sum(1).min() > bits]


def held_out(name, percent=8):
    """True for the slice of train that picks the epoch and the thresholds."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 100 < percent


def letterbox(img, width, height, shrink=1.0):
    """The application's preprocessing: top-left, grey padding. Returns picture and factor."""
    h, w = img.shape[:2]
    f = min(width / w, height / h) * shrink
    nw, nh = max(1, min(width, round(w * f))), max(1, min(height, round(h * f)))
    how = cv2.INTER_AREA if f < 1 else cv2.INTER_LINEAR
    out = np.full((height, width, 3), PAD, np.uint8)
    out[:nh, :nw] = cv2.resize(img, (nw, nh), interpolation=how)
    return out, f


class Augment:
    """Turns the loaded pictures into training canvases, from one seeded generator."""

    def __init__(self, pictures, size, seed):
        self.pictures, self.size = pictures, size
        self.rng = np.random.default_rng(seed)

    def sample(self, index):
        """One canvas and its rows; `index` is a picture that is certainly in it."""
        kind = self.rng.random()
        if kind < 0.05:
            img, rows = draw(self.rng, self.size), np.zeros((0, 5), np.float32)
        elif kind < 0.6:
            img, rows = self.mosaic(index)
        else:
            img, rows = self.single(index)
        if self.rng.random() < 0.5:
            img = img[:, ::-1]
            rows[:, [1, 3]] = self.size - rows[:, [3, 1]]
        return self.colour(img), rows

    def log_uniform(self, low, high):
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def canvas(self):
        """Padding grey most of the time, else something drawn, so that neither becomes a cue."""
        if self.rng.random() < 0.5:
            return np.full((self.size, self.size, 3), PAD, np.uint8)
        return draw(self.rng, self.size)

    def paste(self, canvas, index, scale, left, top, window):
        """Scale a picture, put its corner at (left, top), show it inside `window` only."""
        _, img, rows = self.pictures[index]
        h, w = img.shape[:2]
        stretch = self.log_uniform(0.8, 1.3)
        fx, fy = scale / stretch**0.5, scale * stretch**0.5
        nw, nh = max(8, int(w * fx)), max(8, int(h * fy))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(img, (nw, nh), interpolation=how)
        left, top = int(left(nw)), int(top(nh))
        x1, y1, x2, y2 = max(window[0], left), max(window[1], top), min(window[2], left + nw), min(window[3], top + nh)
        if x2 <= x1 or y2 <= y1:
            return np.zeros((0, 5), np.float32)
        canvas[y1:y2, x1:x2] = small[y1 - top:y2 - top, x1 - left:x2 - left]
        moved = rows.copy()
        moved[:, 1:] = moved[:, 1:] * np.array([nw / w, nh / h] * 2) + np.array([left, top] * 2)
        return cut_rows(moved, (x1, y1, x2, y2))

    def scale_for(self, index, low, high):
        """A random scale, as the picture's long side against the canvas."""
        h, w = self.pictures[index][1].shape[:2]
        return self.log_uniform(low, high) * self.size / max(h, w)

    def single(self, index):
        """One picture, shrunk or enlarged, anywhere on the canvas."""
        img, s = self.canvas(), self.size
        place = lambda n: self.rng.uniform(min(0, s - n), max(0, s - n))
        rows = self.paste(img, index, self.scale_for(index, 0.3, 2.2), place, place, (0, 0, s, s))
        return img, rows

    def mosaic(self, index):
        """Four pictures meeting at a random point, mostly shrunk: faces of CCTV size."""
        img, s = self.canvas(), self.size
        cx, cy = (int(v) for v in self.rng.uniform(0.3 * s, 0.7 * s, 2))
        windows = [(0, 0, cx, cy), (cx, 0, s, cy), (0, cy, cx, s), (cx, cy, s, s)]
        which = [index] + list(self.rng.integers(len(self.pictures), size=3))
        parts = [np.zeros((0, 5), np.float32)]
        for i, win in zip(which, windows):
            if i != index and self.rng.random() < 0.2:
                self.faceless(img, i, win)
                continue
            slack = lambda lo, hi: (lambda n: self.rng.uniform(min(lo, hi - n), max(lo, hi - n)))
            parts.append(self.paste(img, i, self.scale_for(i, 0.22, 1.1),
                                    slack(win[0], win[2]), slack(win[1], win[3]), win))
        return img, np.concatenate(parts)

    def faceless(self, canvas, index, window):
        """Fill a window with an enlarged part of a picture that shows no labelled face.

        Hands, aprons, pans and shelves of complete pictures: the look-alikes that a
        camera in a kitchen meets all day.
        """
        _, img, rows = self.pictures[index]
        h, w = img.shape[:2]
        for _ in range(8):
            side = self.rng.uniform(0.2, 0.6, 2) * (w, h)
            x, y = self.rng.uniform(0, 1, 2) * ((w, h) - side)
            x2, y2 = x + side[0], y + side[1]
            if side.min() < 24 or ((rows[:, 1] < x2) & (rows[:, 3] > x) & (rows[:, 2] < y2) & (rows[:, 4] > y)).any():
                continue
            size = (window[2] - window[0], window[3] - window[1])
            part = img[int(y):int(y2), int(x):int(x2)]
            canvas[window[1]:window[3], window[0]:window[2]] = cv2.resize(part, size)
            return

    def colour(self, img):
        """Light, colour and camera faults."""
        rng = self.rng
        img = img.astype(np.float32)
        if rng.random() < 0.15:
            img[:] = img.mean(2, keepdims=True)
        elif rng.random() < 0.6:
            img *= rng.uniform(0.8, 1.2, 3).astype(np.float32)
        if rng.random() < 0.7:
            dark = rng.random() < 0.25
            gain = rng.uniform(0.2, 0.6) if dark else rng.uniform(0.6, 1.35)
            img = (img - 128) * rng.uniform(0.7, 1.25) + 128
            img *= gain
        if rng.random() < 0.2:
            img = cv2.GaussianBlur(img, (0, 0), rng.uniform(0.4, 1.5))
        if rng.random() < 0.15:
            n = self.size
            k = int(n * rng.uniform(0.45, 0.9))
            img = cv2.resize(cv2.resize(img, (k, k), interpolation=cv2.INTER_AREA), (n, n))
        if rng.random() < 0.25:
            noise = rng.standard_normal(img.shape[:2], dtype=np.float32)[..., None]
            img = img + noise * rng.uniform(2, 14)
        img = np.clip(img, 0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(20, 75))]
            img = cv2.imdecode(cv2.imencode(".jpg", img, quality)[1], cv2.IMREAD_COLOR)
        return img


def draw(rng, size):
    """A drawn background: ramp, soft noise, bricks, discs or lines of letters."""
    ramp = np.linspace(rng.uniform(0, 255, 3), rng.uniform(0, 255, 3), size)
    img = np.repeat(ramp[:, None], size, 1).astype(np.uint8)
    if rng.random() < 0.5:
        img = np.ascontiguousarray(img.transpose(1, 0, 2))
    tint = lambda: [int(v) for v in rng.uniform(0, 255, 3)]
    kind = rng.integers(6)
    if kind == 1:
        cells = int(rng.choice([6, 20, 60, 160]))
        noise = rng.uniform(-1, 1, (cells, cells, int(rng.choice([1, 3])))) * rng.uniform(15, 90)
        soft = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, -1)
        img = np.clip(img + soft, 0, 255).astype(np.uint8)
    elif kind == 2:
        bw, bh, line = int(rng.integers(12, 70)), int(rng.integers(6, 40)), tint()
        for r, y in enumerate(range(0, size, bh)):
            for x in range(-(bw // 2) * (r % 2), size, bw):
                base = img[y, max(0, x)].astype(float) + rng.uniform(-25, 25)
                cv2.rectangle(img, (x, y), (x + bw, y + bh), base.clip(0, 255).tolist(), -1)
                cv2.rectangle(img, (x, y), (x + bw, y + bh), line, int(rng.integers(1, 3)))
    elif kind == 3:
        one, biggest = tint(), int(rng.integers(3, 60))
        for _ in range(rng.integers(4, 40)):
            at = [int(v) for v in rng.uniform(0, size, 2)]
            axes = [int(v) for v in rng.uniform(1, biggest, 2)]
            shade = one if rng.random() < 0.6 else tint()
            cv2.ellipse(img, at, axes, rng.uniform(0, 180), 0, 360, shade, -1 if rng.random() < 0.7 else 2)
        img = cv2.GaussianBlur(img, (0, 0), rng.uniform(0.4, 2.5))
    elif kind == 4:
        letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFG0123456789 ..,"))
        scale, ink = rng.uniform(0.25, 1.1), tint()
        for y in range(10, size, int(10 + 26 * scale)):
            cv2.putText(img, "".join(rng.choice(letters, 70)), (int(rng.uniform(-20, 20)), y), 0, scale, ink, 1)
    elif kind == 5:
        for _ in range(rng.integers(5, 60)):
            ends = [[int(v) for v in rng.uniform(0, size, 2)] for _ in range(2)]
            paint = cv2.line if rng.random() < 0.5 else cv2.rectangle
            paint(img, *ends, tint(), int(rng.integers(1, 12)))
    return img


def cut_rows(rows, window):
    """Clip to the visible window; faces cut by more than half, or tiny, become ignore regions."""
    if not len(rows):
        return rows.astype(np.float32)
    area = np.prod(np.maximum(rows[:, 3:] - rows[:, 1:3], 0), 1)
    out = rows.astype(np.float32).copy()
    out[:, [1, 3]] = out[:, [1, 3]].clip(window[0], window[2])
    out[:, [2, 4]] = out[:, [2, 4]].clip(window[1], window[3])
    side = out[:, 3:] - out[:, 1:3]
    seen = np.prod(side, 1)
    out[(seen < 0.5 * area) | (side.min(1) < SMALLEST), 0] = IGNORE
    return out[seen > 1]


def epoch_order(pictures, rng):
    """Every picture once, those with the rare class (worn wrongly) three times."""
    order = []
    for i, (_, _, rows) in enumerate(pictures):
        order += [i] * (3 if (rows[:, 0] == 2).any() else 1)
    return rng.permutation(order)
