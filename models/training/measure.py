"""Detections as the application makes them, and the figures that are read off them."""

import numpy as np

from augment import letterbox
from net import STRIDES
from sets import CLASSES, GROUPS, IGNORE, overlap

IOUS = np.arange(0.5, 1.0, 0.05)
AREA = 416 * 416  # px of the network's input, whatever its shape
STEP = max(STRIDES)
LOW, NMS_IOU = 0.01, 0.5


def input_shape(width, height, area=AREA):
    """The tensor's width and height for a picture: multiples of STEP within the area, the picture largest,
    then cut down to what the picture covers. The same rule as the application's."""
    best, size = 0.0, (STEP, STEP)
    for n in range(1, area // STEP // STEP + 1):
        w, h = n * STEP, area // (n * STEP) // STEP * STEP
        s = min(w / width, h / height)
        if s > best or (s >= best and w * h < size[0] * size[1]):
            best, size = s, (w, h)
    snug = lambda side, limit: int(min(limit, max(STEP, -(-int(np.ceil(side * best - 1e-6)) // STEP) * STEP)))
    return snug(width, size[0]), snug(height, size[1])


def decode(raw, width, height, low=LOW):
    """Output [A, 5 + C] to rows of score, x1, y1, x2, y2, class; of each cell its best class, if above `low`."""
    xs, ys, ss = [], [], []
    for s in STRIDES:
        gy, gx = np.mgrid[:height // s, :width // s]
        xs.append(gx.ravel()), ys.append(gy.ravel()), ss.append(np.full(gx.size, s))
    x, y, s = (np.concatenate(v).astype(np.float32) for v in (xs, ys, ss))
    score = raw[:, 4:5] * raw[:, 5:]
    cls, best = score.argmax(1), score.max(1)
    keep = best >= low
    cx, cy = (raw[keep, 0] + x[keep]) * s[keep], (raw[keep, 1] + y[keep]) * s[keep]
    w, h = (np.exp(np.minimum(raw[keep, k], 12)) * s[keep] for k in (2, 3))
    return np.stack((best[keep], cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, cls[keep]), 1)


def suppress(rows, iou=NMS_IOU):
    """Greedy suppression within each group of classes that are states of one thing."""
    group = np.array([list(dict.fromkeys(GROUPS.get(n, n) for n in CLASSES)).index(GROUPS.get(n, n)) for n in CLASSES])
    rows, keep = rows[np.argsort(-rows[:, 0], kind="stable")], []
    while len(rows):
        keep.append(rows[0])
        same = group[rows[1:, 5].astype(int)] == group[int(rows[0, 5])]
        rows = rows[1:][~(same & (overlap(rows[:1, 1:5], rows[1:, 1:5])[0] > iou))]
    return np.array(keep, np.float32).reshape(-1, 6)


def see(predict, image, low=LOW, shrink=1.0):
    """Detections in pixels of the picture. `predict`: [1, 3, H, W] BGR 0..255 to [A, 5 + C]."""
    import cv2

    if shrink != 1.0:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    h, w = image.shape[:2]
    width, height = input_shape(w / shrink, h / shrink) if shrink != 1.0 else input_shape(w, h)
    if shrink == 1.0:
        box, f = letterbox(image, width, height)
    else:  # the picture a part of the view: what is left is padding
        small, f = letterbox(image, max(1, round(width * shrink)), max(1, round(height * shrink)))
        box = np.full((height, width, 3), 114, np.uint8)
        box[:small.shape[0], :small.shape[1]] = small
    rows = decode(predict(box.transpose(2, 0, 1)[None].astype(np.float32)), width, height, low)
    rows[:, 1:5] /= f * shrink
    # Clipped before suppression, as in the application: two boxes that differ only outside are one.
    rows[:, 1:5] = rows[:, 1:5].clip(0, np.array([w, h, w, h], np.float32) / shrink)
    return suppress(rows[((rows[:, 3:5] - rows[:, 1:3]) > 0).all(1)])


def match(rows, truth, cls, iou, size=(0, 1e9)):
    """Greedy matching in one picture: [(score, hit)] and the number of objects to find.

    Ignore regions and objects outside `size` (side, the square root of the area, in pixels of the picture)
    neither count nor punish.
    """
    mine = truth[truth[:, 0] == cls][:, 1:]
    side = np.sqrt(np.prod(mine[:, 2:] - mine[:, :2], 1))
    within = (side >= size[0]) & (side < size[1])
    skip = truth[truth[:, 0] == IGNORE][:, 1:]
    out, used = [], np.zeros(len(mine), bool)
    for d in rows[rows[:, 5] == cls]:
        v = np.where(used, 0, overlap(d[None, 1:5], mine)[0]) if len(mine) else np.zeros(0)
        if len(v) and v.max() >= iou:
            used[v.argmax()] = True
            if within[v.argmax()]:
                out.append((d[0], 1))
            continue
        if len(skip) and overlap(d[None, 1:5], skip).max() > 0.3:
            continue
        if size[0] <= np.sqrt(np.prod(d[3:5] - d[1:3])) < size[1]:
            out.append((d[0], 0))
    return out, int(within.sum())


def curve(results, cls, iou=0.5, size=(0, 1e9)):
    """Scores and hits over (detections, picture) pairs, best first, and the number of objects.

    Pictures in which not every object of the class is boxed are left out.
    """
    out, total = [], 0
    for rows, p in results:
        if CLASSES[cls] in p.complete:
            r, n = match(rows, p.rows, cls, iou, size)
            out += r
            total += n
    return np.array(sorted(out, key=lambda r: -r[0])).reshape(-1, 2), total


def average_precision(rows, total):
    """Area under the precision envelope; None where there is nothing to find."""
    if not total:
        return None
    hits = rows[:, 1].cumsum()
    precision = hits / np.arange(1, len(rows) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * rows[:, 1]).sum() / total)
