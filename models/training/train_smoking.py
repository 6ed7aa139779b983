"""Train the network that looks for smoking in squares about heads and cigarettes.

    python train_smoking.py --data DIR --detector ../kitchen.onnx --out RUN

Seeded; run again with the same arguments to go on from the last checkpoint.  Uses a GPU where there is one.
"""

import argparse
import copy
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import crops
import report
import sets
import smoking
from train_detector import follow, kept, rate, save


class Squares(torch.utils.data.Dataset):
    """Augmented squares of one epoch; item i depends only on seed, epoch and i."""

    def __init__(self, squares, seed, epoch):
        self.squares, self.key = squares, (seed, epoch)
        rng = np.random.default_rng(self.key)
        # Calm faces of the mask and heads pictures are many and easy: one in six an epoch.
        calm = lambda h: h.set == "face" and h.name.startswith(("mask", "heads"))
        self.order = rng.permutation([i for i, h in enumerate(squares) for _ in range(1 + (h.smoking == 1))
                                      if not calm(h) or rng.random() < 0.16])

    def __len__(self):
        return len(self.order)

    def __getitem__(self, i):
        h = self.squares[int(self.order[i])]
        wide = smoking.WIDE if h.set == "face" else smoking.AROUND
        image = crops.augmented(h, np.random.default_rng((*self.key, i)), smoking.SIDE, smoking.SIDE, 16, wide)
        return torch.from_numpy(image), h.smoking, h.weight


@torch.no_grad()
def answers(net, squares, device="cpu"):
    """Probabilities for the squares as the application cuts them."""
    net.eval()
    out = []
    for i in range(0, len(squares), 16):
        x = np.stack([crops.cut(h.image, h.box, smoking.SIDE, smoking.SIDE) for h in squares[i:i + 16]]).transpose(0, 3, 1, 2)
        out.append(net(torch.from_numpy(x).float().to(device)).sigmoid().cpu())
    return torch.cat(out).numpy()


def precision_area(want, p):
    hits = want[np.argsort(-p)].cumsum()
    return float((hits / np.arange(1, len(hits) + 1) * want[np.argsort(-p)]).sum() / max(1, want.sum()))


def held_out_score(net, held, device):
    p = answers(net, held, device)
    out = {}
    for kind in ("face", "stick"):
        ix = [i for i, h in enumerate(held) if h.set == kind]
        out[kind] = round(precision_area(np.array([held[i].smoking for i in ix]), p[ix]), 4)
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--detector", required=True, help="finds the heads, and what looks like a cigarette")
    ap.add_argument("--out", required=True)
    ap.add_argument("--epochs", type=int, default=10)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--rate", type=float, default=8e-4)
    ap.add_argument("--seed", type=int, default=13)
    ap.add_argument("--bf16", action="store_true")
    a = ap.parse_args()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    random.seed(a.seed), np.random.seed(a.seed), torch.manual_seed(a.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def squares():
        known = sets.dev_hashes(a.data)
        some = smoking.load(a.data, "train", report.onnx_predict(a.detector))
        copies = {n for n, image in {h.name: h.image for h in some}.items() if sets.is_copy(image, known)}
        return [h for h in some if h.name not in copies]

    some = kept(out / "squares.pkl", squares)
    train, held = ([h for h in some if sets.held_out(h.name, 15) == which] for which in (False, True))
    for name, part in (("train", train), ("held out", held)):
        print(name, {(k, s): sum(h.set == k and h.smoking == s for h in part) for k in ("face", "stick") for s in (0, 1)}, flush=True)
    net = smoking.SmokingNet()
    for part in (net.stem, net.norm, net.blocks[:smoking.FROZEN]):
        part.requires_grad_(False)
    net = net.to(device, memory_format=torch.channels_last)
    smooth = copy.deepcopy(net)
    learnt = [p for p in net.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(learnt, lr=a.rate, weight_decay=0.02)
    first, step = 0, 0
    if (out / "last.pt").exists():
        s = torch.load(out / "last.pt", weights_only=True, map_location=device)
        net.load_state_dict(s["net"]), smooth.load_state_dict(s["smooth"]), opt.load_state_dict(s["opt"])
        first, step = s["epoch"] + 1, s["step"]
    per_epoch = len(Squares(train, a.seed, 0)) // a.batch
    for epoch in range(first, a.epochs):
        start, total = time.time(), 0.0
        loader = torch.utils.data.DataLoader(Squares(train, a.seed, epoch), a.batch, num_workers=1, drop_last=True, prefetch_factor=4)
        net.train()
        for images, want, weight in loader:
            for g in opt.param_groups:
                g["lr"] = rate(step, per_epoch * a.epochs, a.rate, 100)
            x = images.to(device).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=a.bf16):
                y = net(x)
            want = want.to(device).float() * 0.94 + 0.03
            loss = (F.binary_cross_entropy_with_logits(y.float(), want, reduction="none") * weight.float().to(device)).mean()
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 5.0)
            opt.step()
            step += 1
            total += loss.item()
            follow(smooth, net, step, 0.995)
        line = {"epoch": epoch, "seconds": round(time.time() - start, 1), "loss": round(total / per_epoch, 4)}
        line |= held_out_score(smooth, held, device)
        save(out / "last.pt", {"net": net.state_dict(), "smooth": smooth.state_dict(), "opt": opt.state_dict(),
                               "epoch": epoch, "step": step, "seed": a.seed})
        with open(out / "log.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
