"""Train the detector.

    python train_detector.py --data DIR --answers answers.jsonl --start yolox_nano_coco.onnx --out RUN

Seeded; run again with the same arguments to go on from the last checkpoint.  Uses a GPU where there is one.
The first epochs run on a smaller canvas, the last at the shipped size and with calmer pictures.  Writes
`last.pt`, `best.pt` (an average over steps; the epoch that did best on the held-out slice) and `log.jsonl`.
"""

import argparse
import copy
import json
import math
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import torch

import augment
import measure
import sets
from loss import loss_of
from net import YoloxNano, activate, add_norms, fold_norms, grid, load_checkpoint, load_coco, load_own

COCO = {"person": 0, "cat": 15, "dog": 16, "phone": 67}


# Canvases of the last epochs: all of about the shipped area; a picture goes to the one nearest in shape.
SHAPES = ((416, 416), (480, 352), (352, 480), (544, 320), (320, 544))


class Canvases(torch.utils.data.Dataset):
    """Augmented canvases of one epoch; item i depends only on seed, epoch and i.

    `batches` lists the items of each batch, which share a shape: the square of `size`, or, in calm epochs,
    that in which the application would show these pictures.
    """

    def __init__(self, pictures, cuts, size, seed, epoch, calm, batch=16):
        self.pictures, self.cuts, self.key, self.calm = pictures, cuts, (seed, epoch), calm
        rng = np.random.default_rng(self.key)
        self.order = augment.epoch_order(pictures, rng, calm)
        self.shapes = [nearest(pictures[i].image) if calm else (size, size) for i in self.order]
        self.batches = []
        for shape in SHAPES if calm else ((size, size),):
            mine = [i for i, s in enumerate(self.shapes) if s == shape]
            self.batches += [mine[i:i + batch] for i in range(0, len(mine) - batch + 1, batch)]
        self.batches = [self.batches[i] for i in rng.permutation(len(self.batches))]

    def __len__(self):
        return len(self.order)

    def __getitem__(self, i):
        one = augment.Augment(self.pictures, self.cuts, self.shapes[i], (*self.key, i), self.calm)
        image, rows = one.sample(int(self.order[i]))
        return torch.from_numpy(image), torch.from_numpy(rows.astype(np.float32))


def nearest(image):
    (width, height), _ = augment.natural(image)
    return min(SHAPES, key=lambda s: abs(math.log(s[0] / s[1] * height / width)))


def join(batch):
    return torch.stack([b[0] for b in batch]), [b[1] for b in batch]


def rate(step, total, peak, warm):
    """Linear warm-up, then a cosine down to nearly nothing."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.004 + 0.996 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))


@torch.no_grad()
def follow(smooth, net, step, most):
    """Moves the average over steps towards the network; early steps are forgotten sooner than `most` says."""
    keep = min(most, (1 + step) / (10 + step))
    for p, q in zip(smooth.parameters(), net.parameters()):
        p.lerp_(q, 1 - keep)
    for p, q in zip(smooth.buffers(), net.buffers()):
        p.copy_(q) if p.dtype == torch.long else p.lerp_(q, 1 - keep)


def share_gradients(net, processes):
    """Every process goes on with the mean of all gradients."""
    if processes == 1:
        return
    grads = [p.grad for p in net.parameters()]
    flat = torch.cat([g.reshape(-1) for g in grads])
    torch.distributed.all_reduce(flat)
    for g, v in zip(grads, (flat / processes).split([g.numel() for g in grads])):
        g.copy_(v.view_as(g))


@torch.no_grad()
def held_out_score(net, pictures):
    """AP50 per class on the held-out slice as it is and shrunk to 0.45, and the mean over both."""
    net = fold_norms(copy.deepcopy(net).cpu()).eval()

    def predict(x):
        y = net(torch.from_numpy(x).contiguous(memory_format=torch.channels_last))[0]
        return torch.cat((y[:, :4], y[:, 4:].sigmoid()), 1).numpy()

    out = {}
    for shrink in (1.0, 0.45):
        results = [(measure.see(predict, p.image, 0.02, shrink), p) for p in pictures]
        scores = [measure.average_precision(*measure.curve(results, c)) for c in range(len(sets.CLASSES))]
        out[f"x{shrink:g}"] = {n: round(v, 3) for n, v in zip(sets.CLASSES, scores) if v is not None}
    judged = [v for part in out.values() for n, v in part.items() if n not in ("head", "phone")]
    return out, float(np.mean(judged))


def save(path, state):
    """Whole file or none."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def kept(path, make):
    """What `make` makes, from the file where it was made before."""
    if path.exists():
        return pickle.loads(path.read_bytes())
    made = make()
    path.with_suffix(".part").write_bytes(pickle.dumps(made))
    path.with_suffix(".part").replace(path)
    return made


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--answers", required=True, help="what teach.py wrote")
    ap.add_argument("--start", required=True, help="YOLOX-nano COCO weights as ONNX")
    ap.add_argument("--own", action="store_true", help="--start is a network of ours, to go on from: ../kitchen.onnx, or another run's last.pt")
    ap.add_argument("--out", required=True)
    ap.add_argument("--act", choices=("relu", "silu"), default="relu", help="relu is faster and keeps int8 whole, silu sees better")
    ap.add_argument("--epochs", type=int, default=18)
    ap.add_argument("--calm", type=int, default=6, help="last epochs: shipped size, calmer pictures")
    ap.add_argument("--size", type=int, default=384, help="side of the canvas before that")
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--rate", type=float, default=1.5e-3)
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--every", type=int, default=4, help="epochs between looks at the held-out slice")
    ap.add_argument("--bf16", action="store_true", help="half-width arithmetic where the processor has it")
    ap.add_argument("--processes", type=int, default=1, help="each takes its share of every batch, with one thread: the number of cores")
    a = ap.parse_args()
    if a.processes > 1:
        torch.multiprocessing.spawn(train, (a,), a.processes)
    else:
        train(0, a)


def train(rank, a):
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    if a.processes > 1:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{(out / f'meeting-{os.getppid()}').resolve()}",
                                             rank=rank, world_size=a.processes)
    random.seed(a.seed), np.random.seed(a.seed), torch.manual_seed(a.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    pictures, slice_, _ = sets.parts(a.data, a.answers)
    if rank:  # the first makes the file, the others read it
        torch.distributed.barrier()
    cuts = kept(out / "cuts.pkl", lambda: augment.cutouts(pictures))
    if not rank and a.processes > 1:
        torch.distributed.barrier()
    outlined = sum(h is not None for v in cuts[0].values() for h in v)
    if not rank:
        print(f"{len(pictures)} to train on, {len(slice_)} held out, {outlined} animals outlined, {len(cuts[1])} cut out", flush=True)
    activate(a.act)
    net = YoloxNano(len(sets.CLASSES))
    some = Canvases(pictures, cuts, a.size, a.seed, -1 % 1000, False)
    if a.own and a.start.endswith(".pt"):
        load_checkpoint(net, a.start)
    else:
        if a.own:
            load_own(net, a.start)
        else:
            load_coco(net, a.start, {sets.INDEX[n]: c for n, c in COCO.items()})
        add_norms(net, torch.stack([some[i][0] for i in range(32)]).permute(0, 3, 1, 2).float(), was=torch.nn.functional.silu)
    net = net.to(device, memory_format=torch.channels_last)
    smooth = copy.deepcopy(net)
    groups = [[p for p in net.parameters() if p.ndim > 1], [p for p in net.parameters() if p.ndim == 1]]
    opt = torch.optim.AdamW([{"params": groups[0], "weight_decay": 0.02}, {"params": groups[1], "weight_decay": 0.0}], lr=a.rate)
    first, step, best = 0, 0, -1.0
    if (out / "last.pt").exists():
        s = torch.load(out / "last.pt", weights_only=True, map_location=device)
        net.load_state_dict(s["net"]), smooth.load_state_dict(s["smooth"]), opt.load_state_dict(s["opt"])
        first, step, best = s["epoch"] + 1, s["step"], s["best"]

    per_epoch = len(some.batches)
    total = per_epoch * a.epochs
    for epoch in range(first, a.epochs):
        start, sums = time.time(), np.zeros(3)
        calm = epoch >= a.epochs - a.calm
        canvases = Canvases(pictures, cuts, a.size, a.seed, epoch, calm, a.batch)
        mine = [b[rank::a.processes] for b in canvases.batches]
        ahead = {"num_workers": 1, "prefetch_factor": 4} if a.processes == 1 else {}
        loader = torch.utils.data.DataLoader(canvases, batch_sampler=mine, collate_fn=join, **ahead)
        net.train()
        for images, rows in loader:
            for g in opt.param_groups:
                g["lr"] = rate(step, total, a.rate, min(400, total // 10))
            x = images.to(device).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=a.bf16):
                y = net(x)
            loss, seen = loss_of(y.float().cpu(), rows, *grid(*x.shape[2:]))
            opt.zero_grad()
            loss.backward()
            share_gradients(net, a.processes)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            opt.step()
            step += 1
            follow(smooth, net, step, 0.999)
            sums += seen
        line = {"epoch": epoch, "seconds": round(time.time() - start, 1), "box_obj_cls": [round(v, 3) for v in sums / per_epoch]}
        if rank:
            continue
        if (epoch + 1) % a.every == 0 or epoch + 1 == a.epochs:
            scores, mean = held_out_score(smooth, slice_)
            line |= {"held_out_ap50": scores, "mean": round(mean, 4)}
            if mean > best:
                best = mean
                save(out / "best.pt", {"net": smooth.state_dict(), "act": a.act, "epoch": epoch, "mean": mean, "seed": a.seed})
        save(out / "last.pt", {"net": net.state_dict(), "smooth": smooth.state_dict(), "opt": opt.state_dict(),
                               "epoch": epoch, "step": step, "best": best, "seed": a.seed, "act": a.act})
        with open(out / "log.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
