"""Training canvases for the detector: pictures of the sets made to look like a kitchen camera's.

Small objects, wide angle, views from above, steam, grease, low light, night infrared, compression,
occlusion; rats, cats and dogs cut out and put where none were; things that look like cigarettes.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from sets import FACES, IGNORE, INDEX, overlap

PAD = 114
SMALLEST = 4.0  # px: an object below this after augmentation teaches nothing
ANIMALS = tuple(INDEX[n] for n in ("rat", "cat", "dog"))


def letterbox(image, width, height):
    """The application's preprocessing: top-left, grey padding. Returns the picture and its factor."""
    h, w = image.shape[:2]
    f = min(width / w, height / h)
    nw, nh = max(1, min(width, round(w * f))), max(1, min(height, round(h * f)))
    out = np.full((height, width, 3), PAD, np.uint8)
    out[:nh, :nw] = cv2.resize(image, (nw, nh), interpolation=cv2.INTER_AREA if f < 1 else cv2.INTER_LINEAR)
    return out, f


def natural(image):
    """The canvas in which the application would show a picture, and the factor with which."""
    from measure import input_shape

    h, w = image.shape[:2]
    width, height = input_shape(w, h)
    return (width, height), min(width / w, height / h)


@dataclass
class Cut:
    """What GrabCut found of an animal: the animal to put elsewhere, and its outline in pixels of the picture."""

    cls: int
    hull: np.ndarray | None
    image: np.ndarray
    alpha: np.ndarray
    whole: bool  # not so near that the picture cuts it: good to put elsewhere


def cut_out(image, row, longest=200):
    """An animal without its ground, by GrabCut from its box; None where that fails.

    Its outline is believed only if its own box is the labelled one's (overlap above 0.8): then it says exactly
    which box the animal has after a turn, tail or no tail, as the label had it.
    """
    c, x1, y1, x2, y2 = row
    h, w = image.shape[:2]
    bw, bh = x2 - x1, y2 - y1
    if min(bw, bh) < 24:
        return None
    gx, gy = 0.15 * bw, 0.15 * bh
    left, top, right, bottom = (int(v) for v in (max(0, x1 - gx), max(0, y1 - gy), min(w, x2 + gx), min(h, y2 + gy)))
    part = image[top:bottom, left:right]
    f = min(1.0, longest / max(part.shape[:2]))
    part = cv2.resize(part, None, fx=f, fy=f, interpolation=cv2.INTER_AREA)
    rect = [int(v) for v in ((x1 - left) * f, (y1 - top) * f, bw * f, bh * f)]
    if rect[2] * rect[3] > 0.92 * part.shape[0] * part.shape[1]:  # too little ground to learn from
        return None
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(part, mask, rect, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        return None
    count, parts, stats, _ = cv2.connectedComponentsWithStats((mask % 2).astype(np.uint8))
    if count < 2:
        return None
    biggest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    alpha = (parts == biggest).astype(np.float32)
    share = alpha.sum() / (rect[2] * rect[3])
    x, y, cw, ch = (int(v) for v in stats[biggest][:4])
    box = np.array([x, y, x + cw, y + ch]) / f + [left, top, left, top]
    if not 0.25 < share < 0.9:  # a failed cut
        return None
    hull = None
    if overlap(box[None], row[None, 1:])[0, 0] > 0.8:
        ys, xs = np.nonzero(alpha)
        hull = cv2.convexHull(np.stack([xs, ys], 1).astype(np.int32))[:, 0].astype(np.float32)
        hull = (hull - hull.min(0)) / np.maximum(hull.max(0) - hull.min(0), 1)  # filling the labelled box exactly
        hull = (hull * [bw, bh] + [x1, y1]).astype(np.float32)
    whole = bw * bh <= 0.6 * w * h and min(bw, bh) >= 40
    soft = cv2.GaussianBlur(alpha, (3, 3), 0)
    return Cut(int(c), hull, part[y:y + ch, x:x + cw].copy(), soft[y:y + ch, x:x + cw].copy(), bool(whole))


def cutouts(pictures):
    """{picture's index: [outline or None of each row]} of rodent pictures, and the animals to put elsewhere."""
    hulls, animals = {}, []
    for i, p in enumerate(pictures):
        if p.set != "rodent":
            continue
        found = [cut_out(p.image, r) if int(r[0]) in ANIMALS else None for r in p.rows]
        hulls[i] = [c and c.hull for c in found]
        # An animal whose outline is not the labelled box lost its tail in the cut: put elsewhere, it would teach
        # boxes without.
        if len(p.rows) == 1 and found[0] is not None and found[0].hull is not None and found[0].whole:
            animals.append((found[0].cls, found[0].image, found[0].alpha))
    return hulls, animals


class Augment:
    """Canvases of width x height px from one seeded generator. `calm` leaves out what is far from any camera."""

    def __init__(self, pictures, cuts, size, seed, calm=False):
        self.pictures, self.calm = pictures, calm
        self.width, self.height = size
        self.hulls, self.animals = cuts
        self.rng = np.random.default_rng(seed)

    def sample(self, index):
        """A canvas with picture `index` in it, and rows of [class or IGNORE, x1, y1, x2, y2]."""
        draw = self.rng.random()
        if draw < (0.4 if self.calm else 0.5):
            image, rows, room = self.mosaic(index)
        else:
            image, rows, room = self.single(index)
        if room and self.rng.random() < (0.2 if self.calm else 0.3):
            rows = self.add_animals(image, rows)
        if self.rng.random() < 0.12:
            self.sticks(image)
        if self.rng.random() < 0.15:
            rows = self.occlude(image, rows)
        if self.rng.random() < 0.5:
            image = image[:, ::-1]
            rows[:, [1, 3]] = self.width - rows[:, [3, 1]]
        return self.camera(np.ascontiguousarray(image)), rows

    def log_uniform(self, low, high):
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def canvas(self):
        """Padding grey, or another picture's texture enlarged beyond recognition, so that neither is a cue."""
        if self.rng.random() < 0.6:
            return np.full((self.height, self.width, 3), PAD, np.uint8)
        if self.rng.random() < 0.5:
            return drawn(self.rng, max(self.width, self.height))[:self.height, :self.width].copy()
        image = self.pictures[int(self.rng.integers(len(self.pictures)))].image
        h, w = image.shape[:2]
        side = max(4, min(h, w) // 10)
        x, y = int(self.rng.integers(w - side + 1)), int(self.rng.integers(h - side + 1))
        return cv2.GaussianBlur(cv2.resize(image[y:y + side, x:x + side], (self.width, self.height)), (0, 0), 5)

    def angle(self, index):
        """Rotation in degrees: any for animals (cameras look down on them), little for people.

        Any angle at all only where the outline of every animal is known, so that its box after the turn is
        exact; elsewhere quarter turns, which keep boxes exact, and a few degrees.
        """
        picture, draw = self.pictures[index], self.rng.random()
        if picture.set in ("rodent", "rodent-topdown"):
            if draw >= (0.2 if self.calm else 0.45):
                return self.rng.uniform(-5, 5)
            known = self.hulls.get(index)
            if known is not None and all(h is not None for h in known):
                return self.rng.uniform(-180, 180)
            return 90 * self.rng.integers(1, 4) + self.rng.uniform(-5, 5)
        return self.rng.uniform(-100, 100) if draw < 0.06 and not self.calm else self.rng.uniform(-14, 14) if draw < 0.5 else 0.0

    def paste(self, canvas, index, scale, window, centre):
        """Warp a picture into a window of the canvas; returns its rows there."""
        p = self.pictures[index]
        image, h, w = p.image, *p.image.shape[:2]
        stretch = self.log_uniform(0.8, 1.25) ** 0.5
        if scale < 0.7:  # average first: a warp alone would alias small things away
            image = cv2.resize(image, (max(8, round(w * scale)), max(8, round(h * scale))), interpolation=cv2.INTER_AREA)
        fx, fy = scale * stretch * w / image.shape[1], scale / stretch * h / image.shape[0]
        turn = np.deg2rad(self.angle(index))
        c, s = np.cos(turn), np.sin(turn)
        m = np.array([[c * fx, -s * fy], [s * fx, c * fy]])
        middle = np.array([image.shape[1] / 2, image.shape[0] / 2])
        m = np.concatenate([m, (np.array(centre) - m @ middle)[:, None]], 1)
        x1, y1, x2, y2 = window
        shift = m.copy()
        shift[:, 2] -= (x1, y1)
        part = canvas[y1:y2, x1:x2]
        warped = cv2.warpAffine(image, shift, (x2 - x1, y2 - y1), dst=part.copy(), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_TRANSPARENT)
        canvas[y1:y2, x1:x2] = warped
        rows = p.rows.copy()
        f = np.array([image.shape[1] / w, image.shape[0] / h])
        rows[:, 1:] *= np.tile(f, 2)
        rows = turned(rows, m)
        for row, hull in zip(rows, self.hulls.get(index, ())):
            if hull is not None:
                at = (hull * f) @ m[:, :2].T + m[:, 2]
                row[1:] = *at.min(0), *at.max(0)
        return cut(rows, window)

    def scale_for(self, index, low, high):
        """A factor between `low` and `high` times the one with which the application would show the picture,
        whatever the canvas: what counts is the size in pixels that the network will meet."""
        return self.log_uniform(low, high) * natural(self.pictures[index].image)[1]

    def single(self, index):
        """One picture, mostly whole; returns also whether animals may be put into it."""
        image, size = self.canvas(), np.array([self.width, self.height])
        if self.calm and self.rng.random() < 0.5:  # just as the application shows it
            scale = natural(self.pictures[index].image)[1]
        else:
            scale = self.scale_for(index, 0.4, 1.1) if self.calm else self.scale_for(index, 0.35, 1.2)
        slack = np.abs(size - scale * np.array(self.pictures[index].image.shape[1::-1])) / 2
        centre = size / 2 + self.rng.uniform(-slack, slack)
        rows = self.paste(image, index, scale, (0, 0, self.width, self.height), centre)
        return image, rows, not np.isin(rows[:, 0], ANIMALS).any()

    def mosaic(self, index):
        """Four pictures meeting at a random point, mostly shrunk: objects of camera size."""
        width, height = self.width, self.height
        image = self.canvas()
        cx, cy = (int(v) for v in self.rng.uniform(0.3, 0.7, 2) * [width, height])
        windows = [(0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height)]
        self.rng.shuffle(windows)
        which = [index] + [int(i) for i in self.rng.integers(len(self.pictures), size=3)]
        parts = []
        for i, win in zip(which, windows):
            win = tuple(int(v) for v in win)
            scale = self.scale_for(i, 0.2, 0.85)
            h, w = self.pictures[i].image.shape[:2]
            centre = []
            for lo, hi, side in ((win[0], win[2], w * scale), (win[1], win[3], h * scale)):
                a, b = sorted((lo + side / 2, hi - side / 2))
                centre.append(self.rng.uniform(a, b))
            parts.append(self.paste(image, i, scale, win, centre))
        rows = np.concatenate(parts)
        return image, rows, True

    def add_animals(self, image, rows):
        """Cut-out animals of camera size on free ground: mostly rats, sometimes the cats and dogs they resemble."""
        for _ in range(int(self.rng.integers(1, 3))):
            c, animal, alpha = self.animals[int(self.rng.integers(len(self.animals)))]
            long_side = self.log_uniform(9, 90) if c == INDEX["rat"] else self.log_uniform(14, 130)
            f = long_side / max(animal.shape[:2])
            if f > 1.3:
                continue
            turn = self.rng.uniform(-180, 180) if self.rng.random() < 0.5 else self.rng.uniform(-15, 15)
            h, w = animal.shape[:2]
            small = [cv2.resize(v, (max(3, round(w * f)), max(3, round(h * f))), interpolation=cv2.INTER_AREA) for v in (animal, alpha)]
            h, w = small[1].shape
            side = int(np.hypot(h, w)) + 2
            m = cv2.getRotationMatrix2D((w / 2, h / 2), turn, 1)
            m[:, 2] += (side - w) / 2, (side - h) / 2
            body, mask = (cv2.warpAffine(v, m, (side, side)) for v in small)
            ys, xs = np.nonzero(mask > 0.5)
            if len(xs) < 12:
                continue
            if side >= min(self.width, self.height):
                continue
            px, py = (int(self.rng.uniform(0, v - side)) for v in (self.width, self.height))
            box = np.array([px + xs.min(), py + ys.min(), px + xs.max() + 1, py + ys.max() + 1], np.float32)
            solid = rows[rows[:, 0] >= 0]
            if len(solid) and inside(box, solid[solid[:, 0] != INDEX["person"]][:, 1:]) > 0.05:
                continue
            ground = image[py:py + side, px:px + side].astype(np.float32)
            body = body.astype(np.float32)
            # The light of the place: an animal brighter than its ground by accident would be a cue.
            light = (ground.mean() + 20) / (body[mask > 0.5].mean() + 20)
            body *= light ** self.rng.uniform(0.2, 1.0)
            shade = cv2.GaussianBlur(np.roll(mask, max(1, side // 16), 0), (0, 0), max(0.8, side / 24))[..., None]
            ground *= 1 - self.rng.uniform(0, 0.5) * shade
            mask = (mask * self.rng.uniform(0.8, 1.0))[..., None]
            mixed = ground * (1 - mask) + body * mask
            if self.rng.random() < 0.25:  # it runs
                k = int(self.rng.integers(2, 5))
                mixed = cv2.blur(mixed, (k, 1))
            image[py:py + side, px:px + side] = mixed.clip(0, 255).astype(np.uint8)
            rows = np.concatenate([rows, [[c, *box]]]).astype(np.float32)
        return rows

    def sticks(self, image):
        """Chopsticks, pens, straws and spoons: long and thin as a cigarette, but none."""
        s = min(self.width, self.height)
        for _ in range(int(self.rng.integers(1, 4))):
            start = self.rng.uniform(0, 1, 2) * [self.width, self.height]
            turn, length = self.rng.uniform(0, 2 * np.pi), self.log_uniform(0.08, 0.5) * s
            width = max(1, round(length * self.rng.uniform(0.02, 0.06)))
            end = start + length * np.array([np.cos(turn), np.sin(turn)])
            shade = self.rng.uniform(0, 255) + self.rng.uniform(-25, 25, 3)
            cv2.line(image, start.astype(int).tolist(), end.astype(int).tolist(), shade.clip(0, 255).tolist(), width, cv2.LINE_AA)

    def occlude(self, image, rows):
        """A plain or textured block over a part of an object: shelves, pans, other people."""
        mine = rows[(rows[:, 0] >= 0) & (np.minimum(rows[:, 3] - rows[:, 1], rows[:, 4] - rows[:, 2]) > 24)]
        if not len(mine):
            return rows
        r = mine[int(self.rng.integers(len(mine)))]
        if int(r[0]) in FACES or int(r[0]) == INDEX["cigarette"]:  # a covered mouth would change the class
            return rows
        w, h = r[3] - r[1], r[4] - r[2]
        if self.rng.random() < 0.5:
            x1, x2 = sorted((r[1] - 4 + self.rng.uniform(0, 1, 2) * 0.4 * w + (0.6 * w if self.rng.random() < 0.5 else 0)))
            box = [x1, r[2] - 4, x2, r[4] + 4]
        else:
            cover = self.rng.uniform(0.15, 0.4) * h
            box = [r[1] - 4, r[4] - cover, r[3] + 4, r[4] + 4]
        x1, x2 = (int(np.clip(v, 0, self.width)) for v in (box[0], box[2]))
        y1, y2 = (int(np.clip(v, 0, self.height)) for v in (box[1], box[3]))
        others = rows[np.isin(rows[:, 0], FACES + (INDEX["cigarette"],))]
        if x2 <= x1 or y2 <= y1 or (len(others) and inside(np.array([x1, y1, x2, y2], np.float32), others[:, 1:]) > 0):
            return rows
        tone = self.rng.uniform(0, 255, 3)
        image[y1:y2, x1:x2] = (tone + self.rng.normal(0, 6, (y2 - y1, x2 - x1, 3))).clip(0, 255).astype(np.uint8)
        return rows

    def camera(self, image):
        return camera(image, self.rng)


def camera(image, rng):
    """Light, lens, sensor and codec of a kitchen camera."""
    h, w = image.shape[:2]
    image = image.astype(np.float32)
    night = rng.random() < 0.15
    if night:  # infrared: grey, lit from the camera, noisy
        image[:] = (image @ np.array([0.2, 0.5, 0.3], np.float32))[..., None]
        ys, xs = np.mgrid[:h, :w].astype(np.float32)
        far = np.hypot((xs / w - rng.uniform(0.3, 0.7)), (ys / h - rng.uniform(0.3, 0.7)))
        image *= (rng.uniform(0.6, 1.3) - rng.uniform(0.2, 0.9) * far)[..., None].clip(0.15, None)
        image = (image - image.mean()) * rng.uniform(0.5, 1.1) + rng.uniform(50, 130)
    else:
        if rng.random() < 0.08:
            image[:] = image.mean(2, keepdims=True)
        elif rng.random() < 0.6:
            image *= rng.uniform(0.82, 1.18, 3).astype(np.float32)
        if rng.random() < 0.65:
            gain = rng.uniform(0.2, 0.6) if rng.random() < 0.25 else rng.uniform(0.6, 1.35)
            image = ((image - 128) * rng.uniform(0.7, 1.25) + 128) * gain
    if rng.random() < 0.12:  # steam
        k = int(rng.choice([3, 5, 8]))
        cloud = cv2.resize(rng.uniform(0, 1, (k, k)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
        cloud = (cloud * rng.uniform(0.2, 0.75)).clip(0, 0.8)[..., None]
        image = image * (1 - cloud) + rng.uniform(170, 240) * cloud
    draw = rng.random()
    if draw < 0.12:  # grease on the dome, or out of focus
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8))
    elif draw < 0.2:  # motion
        k = int(rng.integers(3, 8))
        kernel = np.zeros((k, k), np.float32)
        cv2.line(kernel, *[tuple(int(v) for v in rng.integers(0, k, 2)) for _ in range(2)], 1.0)
        image = cv2.filter2D(image, -1, kernel / max(1.0, kernel.sum()))
    if rng.random() < 0.12:  # barrel distortion of a wide lens is slight at object scale; its softness is not
        f = rng.uniform(0.45, 0.9)
        small = cv2.resize(image, (int(w * f), int(h * f)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (w, h))
    if night or rng.random() < 0.2:
        noise = rng.standard_normal((h, w, 1 if rng.random() < 0.6 else 3), dtype=np.float32)
        image = image + noise * rng.uniform(2, 16)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:  # block codecs quantise twice on the way from the sensor to us
        for quality in rng.uniform(20, 80, int(rng.integers(1, 3))):
            coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
            image = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return image


def drawn(rng, size):
    """A drawn ground: ramp, soft noise, tiles, discs or lines, none of which is any class."""
    ramp = np.linspace(rng.uniform(0, 255, 3), rng.uniform(0, 255, 3), size)
    image = np.repeat(ramp[:, None], size, 1).astype(np.uint8)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image.transpose(1, 0, 2))
    tint = lambda: [int(v) for v in rng.uniform(0, 255, 3)]
    kind = rng.integers(4)
    if kind == 0:
        cells = int(rng.choice([6, 20, 60, 160]))
        noise = rng.uniform(-1, 1, (cells, cells, int(rng.choice([1, 3])))) * rng.uniform(15, 90)
        soft = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, -1)
        image = np.clip(image + soft, 0, 255).astype(np.uint8)
    elif kind == 1:
        bw, bh, line = int(rng.integers(12, 70)), int(rng.integers(6, 40)), tint()
        for r, y in enumerate(range(0, size, bh)):
            for x in range(-(bw // 2) * (r % 2), size, bw):
                cv2.rectangle(image, (x, y), (x + bw, y + bh), line, int(rng.integers(1, 3)))
    elif kind == 2:
        one, biggest = tint(), int(rng.integers(3, 60))
        for _ in range(rng.integers(4, 40)):
            at, axes = [int(v) for v in rng.uniform(0, size, 2)], [int(v) for v in rng.uniform(1, biggest, 2)]
            cv2.ellipse(image, at, axes, rng.uniform(0, 180), 0, 360, one if rng.random() < 0.6 else tint(),
                        -1 if rng.random() < 0.7 else 2)
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.5))
    else:
        for _ in range(rng.integers(5, 60)):
            ends = [[int(v) for v in rng.uniform(0, size, 2)] for _ in range(2)]
            (cv2.line if rng.random() < 0.5 else cv2.rectangle)(image, *ends, tint(), int(rng.integers(1, 12)))
    return image


def turned(rows, m):
    """Boxes after an affine warp: between that of the ellipse inscribed in each, which is too tight for a long
    body on the diagonal, and that of its corners, which is too loose for all else."""
    out = rows.copy()
    centre = (rows[:, 1:3] + rows[:, 3:5]) / 2 @ m[:, :2].T + m[:, 2]
    side = (rows[:, 3:5] - rows[:, 1:3]) / 2
    half = 0.7 * np.sqrt(side**2 @ (m[:, :2] ** 2).T) + 0.3 * (side @ np.abs(m[:, :2]).T)
    out[:, 1:3], out[:, 3:5] = centre - half, centre + half
    return out


def inside(box, others):
    """Largest share of `box`, or of one of `others`, that the two have in common."""
    if not len(others):
        return 0.0
    side = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0)
    area = np.minimum(np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], 1))
    return float((np.prod(side, 1) / np.maximum(area, 1)).max())


def cut(rows, window):
    """Clip to the visible window; objects mostly cut away, or tiny, become ignore regions."""
    if not len(rows):
        return rows.astype(np.float32)
    area = np.prod(np.maximum(rows[:, 3:] - rows[:, 1:3], 0), 1)
    out = rows.astype(np.float32).copy()
    out[:, [1, 3]] = out[:, [1, 3]].clip(window[0], window[2])
    out[:, [2, 4]] = out[:, [2, 4]].clip(window[1], window[3])
    side = out[:, 3:] - out[:, 1:3]
    seen = np.prod(side, 1)
    # Half a face is a face no more; a third of a body or an animal still is one.
    least = np.where(np.isin(rows[:, 0], FACES), 0.6, np.where(rows[:, 0] == INDEX["cigarette"], 0.6, 0.3))
    out[(seen < least * area) | (side.min(1) < SMALLEST), 0] = IGNORE
    return out[seen > 1]


def epoch_order(pictures, rng, calm=False):
    """Every picture once, those with rare classes more often; one in two of the one top-down scene.

    In calm epochs rats, whose boxes are learnt last, come more often, and what is learnt well comes less.
    """
    often = {INDEX["rat"]: 3 if calm else 2, INDEX["face-chin"]: 2, INDEX["cigarette"]: 2, INDEX["cat"]: 2, INDEX["dog"]: 2}
    rest = {"rodent-topdown": 0.5} | ({"heads": 0.6, "heads-incomplete": 0.6, "negatives": 0.6} if calm else {})
    order = []
    for i, p in enumerate(pictures):
        if rng.random() > rest.get(p.set, 1.0):
            continue
        order += [i] * max([1] + [n for c, n in often.items() if (p.rows[:, 0] == c).any()])
    return rng.permutation(order)
