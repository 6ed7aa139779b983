"""Train the face and mask detector.

    python train.py --data DIR --start yolox_nano_coco.onnx --out DIR

Seeded.  Run again with the same arguments to go on from the last checkpoint.
Writes `last.pt`, `best.pt` (weights that did best on the held-out slice of train) and
`log.jsonl` to the output folder.  export.py turns `best.pt` into the shipped file.
"""

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import data as D
import evaluate as E
from net import CLASSES, YoloxNano, grid, load_coco

VIEW = (640, 384)  # the shipped input, used for the held-out slice


def decode_boxes(raw, points, strides):
    """Raw cx, cy, w, h to corners in pixels."""
    centre = (raw[..., :2] + points) * strides
    half = raw[..., 2:4].clamp(max=8).exp() * strides / 2
    return torch.cat((centre - half, centre + half), -1)


def iou_pairs(a, b):
    """IoU of matching rows."""
    side = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    inter = side.prod(-1)
    area = lambda v: (v[..., 2:] - v[..., :2]).clamp(min=0).prod(-1)
    return inter / (area(a) + area(b) - inter + 1e-9)


@torch.no_grad()
def assign(boxes, logits, faces, points, strides):
    """Give each face the cells that fit it best (the SimOTA rule of the YOLOX paper).

    A cell is a candidate if its centre lies in the face, or within 1.5 cells of the
    face's centre.  Cost = class loss + 3 x box loss.  Each face takes as many cells as
    the sum of its ten best overlaps; a cell wanted by several goes to the cheapest.
    Returns the cells taken, their faces and their overlaps.
    """
    centre = (points + 0.5) * strides
    box = faces[:, None, 1:]
    within = torch.cat((centre[None] - box[..., :2], box[..., 2:] - centre[None]), 2).min(2).values > 0
    middle = (box[..., :2] + box[..., 2:]) / 2
    near = ((centre[None] - middle).abs() < 1.5 * strides[None]).all(2)
    cells = (within | near).any(0).nonzero()[:, 0]
    iou = iou_pairs(boxes[cells][None], box)
    score = (logits[cells, :1].sigmoid() * logits[cells, 1:].sigmoid()).sqrt()
    want = F.one_hot(faces[:, 0].long(), len(CLASSES)).float()
    mistake = F.binary_cross_entropy(score[None].expand(len(faces), -1, -1),
                                     want[:, None].expand(-1, len(cells), -1), reduction="none").sum(2)
    cost = mistake - 3 * (iou + 1e-8).log() + 1e5 * ~(within & near)[:, cells]
    taken = torch.zeros_like(iou, dtype=torch.bool)
    count = iou.topk(min(10, len(cells)), 1).values.sum(1).int().clamp(min=1)
    for f, k in enumerate(count.tolist()):
        taken[f, cost[f].topk(min(k, len(cells)), largest=False).indices] = True
    cheapest = F.one_hot(cost.argmin(0), len(faces)).T.bool()
    taken = torch.where(taken.sum(0, keepdim=True) > 1, cheapest, taken)
    face, cell = taken.nonzero(as_tuple=True)
    return cells[cell], face, iou[face, cell]


def ignore_mask(regions, points, strides):
    """True for cells whose centre lies in a region that is neither face nor background."""
    c = ((points + 0.5) * strides)[:, None]
    r = regions[None, :, 1:]
    return ((c > r[..., :2]) & (c < r[..., 2:])).all(2).any(1)


def loss_of(out, rows, points, strides):
    """Box, object and class losses of a batch, each per assigned cell."""
    boxes = decode_boxes(out[..., :4], points, strides)
    want_obj = torch.zeros(out.shape[:2])
    weight = torch.ones(out.shape[:2])
    chosen, faces, quality = [], [], []
    for i, r in enumerate(rows):
        real, skip = r[r[:, 0] >= 0], r[r[:, 0] < 0]
        if len(skip):
            weight[i][ignore_mask(skip, points, strides)] = 0
        if not len(real):
            continue
        cells, face, iou = assign(boxes[i].detach(), out[i, :, 4:].detach(), real, points, strides)
        want_obj[i, cells] = 1
        weight[i, cells] = 1
        chosen.append(i * out.shape[1] + cells)
        faces.append(real[face])
        quality.append(iou)
    obj = (F.binary_cross_entropy_with_logits(out[..., 4], want_obj, reduction="none") * weight).sum()
    if not chosen:
        return obj, (0.0, obj.item(), 0.0)
    chosen, faces, quality = torch.cat(chosen), torch.cat(faces), torch.cat(quality)
    n = max(1, len(chosen))
    box = (1 - iou_pairs(boxes.reshape(-1, 4)[chosen], faces[:, 1:]) ** 2).sum()
    target = F.one_hot(faces[:, 0].long(), len(CLASSES)).float() * quality[:, None]
    cls = F.binary_cross_entropy_with_logits(out[..., 5:].reshape(-1, len(CLASSES))[chosen], target, reduction="sum")
    return (5 * box + obj + cls) / n, (box.item() / n, obj.item() / n, cls.item() / n)


class Canvases(torch.utils.data.Dataset):
    """Augmented canvases of one epoch; item i depends only on seed, epoch and i."""

    def __init__(self, pictures, size, seed, epoch):
        self.pictures, self.size, self.key = pictures, size, (seed, epoch)
        self.order = D.epoch_order(pictures, np.random.default_rng(self.key))

    def __len__(self):
        return len(self.order)

    def __getitem__(self, i):
        img, rows = D.Augment(self.pictures, self.size, (*self.key, i)).sample(int(self.order[i]))
        return torch.from_numpy(np.ascontiguousarray(img)), torch.from_numpy(rows.astype(np.float32))


def join(batch):
    return torch.stack([b[0] for b in batch]), [b[1] for b in batch]


def rate(step, total, peak, warm):
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))


@torch.no_grad()
def held_out_score(net, pictures):
    """Mean AP50 over the classes on the held-out slice, at full size and shrunk."""
    net.eval()
    predict = lambda x: torch.cat((lambda y: (y[:, :4], y[:, 4:].sigmoid()))(
        net(torch.from_numpy(x).to(memory_format=torch.channels_last))[0]), 1).numpy()
    scores = {}
    for shrink in (1.0, 0.4):
        results = E.run(predict, pictures, *VIEW, shrink)
        scores[f"x{shrink:g}"] = [E.rounded(E.average_precision(*E.curve(results, c))) for c in range(len(CLASSES))]
    return scores, float(np.mean([v for s in scores.values() for v in s if v is not None]))


def prepare(path):
    """Train and held-out pictures, without copies of dev pictures."""
    train = D.load(D.read_mask(path, "train") + D.read_heads(path, "train"))
    dev = D.load(D.read_mask(path, "dev") + D.read_heads(path, "dev"))
    kept = D.without_copies(train, dev)
    print(f"{len(train)} train pictures, {len(train) - len(kept)} dropped as copies of dev pictures", flush=True)
    back = D.load(D.read_backgrounds(path))
    return [p for p in kept if not D.held_out(p[0])] + back, [p for p in kept if D.held_out(p[0])]


def save(path, state):
    """Whole file or none."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--start", required=True, help="YOLOX-nano COCO weights as ONNX")
    ap.add_argument("--out", required=True)
    ap.add_argument("--epochs", type=int, default=24)
    ap.add_argument("--size", type=int, default=320, help="side of the training canvas")
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--rate", type=float, default=1e-3)
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--every", type=int, default=3, help="epochs between looks at the held-out slice")
    a = ap.parse_args()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    random.seed(a.seed), np.random.seed(a.seed), torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)

    pictures, slice_ = prepare(a.data)
    print(f"{len(pictures)} to train on (backgrounds included), {len(slice_)} held out", flush=True)
    net = YoloxNano()
    load_coco(net, a.start)
    net = net.to(memory_format=torch.channels_last)
    smooth = copy.deepcopy(net)
    opt = torch.optim.AdamW(net.parameters(), lr=a.rate, weight_decay=1e-4)
    points, strides = grid(a.size, a.size)
    first, step, best = 0, 0, -1.0
    if (out / "last.pt").exists():
        s = torch.load(out / "last.pt", weights_only=True)
        net.load_state_dict(s["net"]), smooth.load_state_dict(s["smooth"]), opt.load_state_dict(s["opt"])
        first, step, best = s["epoch"] + 1, s["step"], s["best"]

    per_epoch = len(D.epoch_order(pictures, np.random.default_rng(0))) // a.batch
    total = per_epoch * a.epochs
    for epoch in range(first, a.epochs):
        start, sums = time.time(), np.zeros(3)
        loader = torch.utils.data.DataLoader(Canvases(pictures, a.size, a.seed, epoch), a.batch, num_workers=1,
                                             collate_fn=join, drop_last=True, prefetch_factor=4)
        net.train()
        for images, rows in loader:
            for g in opt.param_groups:
                g["lr"] = rate(step, total, a.rate, min(200, total // 10))
            x = images.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
            loss, seen = loss_of(net(x), rows, points, strides)
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            opt.step()
            step += 1
            keep = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                for p, q in zip(smooth.parameters(), net.parameters()):
                    p.lerp_(q, 1 - keep)
            sums += seen
        line = {"epoch": epoch, "seconds": round(time.time() - start, 1),
                "box_obj_cls": [round(v, 3) for v in sums / per_epoch]}
        if (epoch + 1) % a.every == 0 or epoch + 1 == a.epochs:
            scores, mean = held_out_score(smooth, slice_)
            line |= {"held_out_ap50": scores, "mean": round(mean, 4)}
            if mean > best:
                best = mean
                save(out / "best.pt", {"net": smooth.state_dict(), "epoch": epoch, "mean": mean, "seed": a.seed})
        save(out / "last.pt", {"net": net.state_dict(), "smooth": smooth.state_dict(), "opt": opt.state_dict(),
                               "epoch": epoch, "step": step, "best": best})
        with open(out / "log.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
