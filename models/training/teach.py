"""Ask two public networks about every picture, for the labels that its own set lacks.

    python teach.py --data DIR --models DIR --out answers.jsonl

YOLOX-nano (COCO) answers for persons, phones, cats and dogs, an UltraFace network for faces.  Neither is
shipped.  Pictures are shown as they are and mirrored; answers that only one look gives count half.  sets.py
decides what to believe.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

import sets

COCO = {0: "person", 15: "cat", 16: "dog", 67: "phone"}


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def keep_best(rows, iou, top=None):
    """Greedy suppression; rows are [score, x1, y1, x2, y2, ...]."""
    rows, kept = rows[np.argsort(-rows[:, 0], kind="stable")][:top], []
    while len(rows):
        kept.append(rows[0])
        rows = rows[1:][sets.overlap(rows[:1, 1:5], rows[1:, 1:5])[0] <= iou]
    return np.array(kept)


class Coco:
    """YOLOX-nano with its COCO weights; raw output, decoded here."""

    def __init__(self, path):
        self.net = session(path)
        cells = [(x, y, s) for s in (8, 16, 32) for y in range(416 // s) for x in range(416 // s)]
        self.x, self.y, self.s = np.array(cells, np.float32).T

    def look(self, image):
        h, w = image.shape[:2]
        f = min(416 / w, 416 / h)
        box = np.full((416, 416, 3), 114, np.float32)
        small = cv2.resize(image, (round(w * f), round(h * f)), interpolation=cv2.INTER_AREA if f < 1 else cv2.INTER_LINEAR)
        box[:small.shape[0], :small.shape[1]] = small
        raw = self.net.run(None, {self.net.get_inputs()[0].name: box.transpose(2, 0, 1)[None]})[0][0]
        cx, cy = (raw[:, 0] + self.x) * self.s, (raw[:, 1] + self.y) * self.s
        bw, bh = np.exp(raw[:, 2]) * self.s, np.exp(raw[:, 3]) * self.s
        corners = np.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], 1) / f / np.array([w, h, w, h])
        out = {}
        for c, name in COCO.items():
            score = raw[:, 4] * raw[:, 5 + c]
            near = score > 0.1
            out[name] = keep_best(np.concatenate([score[near, None], corners[near].clip(0, 1)], 1), 0.6)
        return out


class Faces:
    """UltraFace RFB-640: background, face, masked."""

    def __init__(self, path):
        self.net = session(path)

    def look(self, image):
        h, w = image.shape[:2]
        f = min(640 / w, 480 / h)
        box = np.zeros((480, 640, 3), np.float32)
        small = cv2.resize(image, (round(w * f), round(h * f)), interpolation=cv2.INTER_AREA if f < 1 else cv2.INTER_LINEAR)
        box[:small.shape[0], :small.shape[1]] = small
        tensor = ((box[..., ::-1] - 127) / 128).transpose(2, 0, 1)[None].astype(np.float32)
        scores, corners = (v[0] for v in self.net.run(None, {self.net.get_inputs()[0].name: tensor}))
        near = scores[:, 1:].max(1) > 0.15
        corners = corners[near] * np.array([640, 480, 640, 480]) / f / np.array([w, h, w, h])
        rows = np.concatenate([scores[near, 1:].max(1)[:, None], corners.clip(0, 1), scores[near, 1:]], 1)
        return keep_best(rows, 0.4, 400)


def agreed(first, second):
    """Answers of both looks: the mean score of pairs that overlap, half the score of the others."""
    if not len(first) or not len(second):
        rows = first if len(first) else second
        rows = rows.copy()
        if len(rows):
            rows[:, [0] + list(range(5, rows.shape[1]))] /= 2
        return rows
    iou = sets.overlap(first[:, 1:5], second[:, 1:5])
    out, paired = [], set()
    for r, overlaps in zip(first, iou):
        j = int(overlaps.argmax())
        if overlaps[j] > 0.5:
            paired.add(j)
            out.append((r + second[j]) / 2)
        else:
            out.append(halved(r))
    return np.array(out + [halved(r) for j, r in enumerate(second) if j not in paired])


def halved(row):
    row = row.copy()
    row[[0] + list(range(5, len(row)))] /= 2
    return row


def mirrored(rows):
    if len(rows):
        rows[:, [1, 3]] = 1 - rows[:, [3, 1]]
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--models", required=True, help="folder with yolox_nano_coco.onnx and RFB-640-masked_face-v2.onnx")
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    coco, faces = Coco(Path(a.models) / "yolox_nano_coco.onnx"), Faces(Path(a.models) / "RFB-640-masked_face-v2.onnx")
    out = Path(a.out)
    done = set()
    if out.exists():
        done = {json.loads(line)["file"] for line in out.read_text().splitlines()}
    names = sorted({name for _, _, name in sets.own_labels(a.data, smokers=True)} - done)
    with open(out, "a") as f:
        for name in names:
            image = cv2.imread(str(Path(a.data) / name))
            flipped = image[:, ::-1].copy()
            plain, mirror = coco.look(image), coco.look(flipped)
            objects = []
            for kind in plain:
                both = agreed(plain[kind], mirrored(mirror[kind]))
                objects += [[kind, *map(lambda v: round(float(v), 4), r[:5])] for r in both]
            seen = agreed(faces.look(image), mirrored(faces.look(flipped)))
            seen = [[round(float(v), 4) for v in (r[5], r[6], *r[1:5])] for r in seen]
            f.write(json.dumps({"file": name, "faces": seen, "coco": objects}) + "\n")


if __name__ == "__main__":
    main()
