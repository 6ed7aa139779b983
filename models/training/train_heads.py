"""Train the classifier of heads.

    python train_heads.py --data DIR --answers answers.jsonl --out RUN

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
from heads_net import HeadsNet
from train_detector import follow, rate, save

# How much a mistake weighs, against the classes' rarity.
COVER = torch.tensor([1.2, 1.2, 1.0, 1.6])
FACE = torch.tensor([0.8, 1.0, 2.5, 1.5])


class Crops(torch.utils.data.Dataset):
    """Augmented crops of one epoch; item i depends only on seed, epoch and i."""

    def __init__(self, heads, seed, epoch):
        self.heads, self.key = heads, (seed, epoch)
        rng = np.random.default_rng(self.key)
        often = lambda h: ({0: 2, 1: 2, 2: 1, 3: 3}.get(h.cover, 1) if h.set == "heads" else 1) * (2 if h.face == 2 else 1) * (2 if h.smoking == 1 else 1)
        # Mask pictures are many and say nothing of covers: half of them an epoch.
        order = [i for i, h in enumerate(heads) for _ in range(often(h)) if h.set != "mask" or rng.random() < 0.5]
        self.order = rng.permutation(order)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, i):
        h = self.heads[int(self.order[i])]
        image = crops.augmented(h, np.random.default_rng((*self.key, i)))
        return torch.from_numpy(image), torch.tensor([h.cover, h.face, h.smoking]), h.weight


def loss_of(y, labels, weight):
    """Sum of the three losses, each over the heads whose label is known."""
    cover, face, smoking = labels.T
    total = 0.0
    for logits, want, gains in ((y[:, :4], cover, COVER), (y[:, 4:8], face, FACE)):
        known = want >= 0
        if known.any():
            one = F.cross_entropy(logits[known], want[known], gains.to(y.device), reduction="none", label_smoothing=0.05)
            total = total + (one * weight[known]).mean()
    known = smoking >= 0
    if known.any():
        want = smoking[known].float() * 0.94 + 0.03
        total = total + (F.binary_cross_entropy_with_logits(y[known, 8], want, reduction="none") * weight[known]).mean() * 1.5
    return total


@torch.no_grad()
def answers(net, heads, device="cpu"):
    """Logits [N, 9] for crops as the application cuts them."""
    net.eval()
    out = []
    for i in range(0, len(heads), 32):
        x = np.stack([crops.cut(h.image, h.box) for h in heads[i:i + 32]]).transpose(0, 3, 1, 2)
        out.append(net(torch.from_numpy(x).float().to(device)).cpu())
    return torch.cat(out).numpy()


def balanced(want, got, classes):
    """Mean recall over the classes that occur."""
    return float(np.mean([(got[want == c] == c).mean() for c in classes if (want == c).any()]))


def held_out_score(net, heads, device):
    y = answers(net, heads, device)
    cover, face, smoking = (np.array([getattr(h, k) for h in heads]) for k in ("cover", "face", "smoking"))
    told = np.array([h.set == "heads" for h in heads])
    known = told & (cover >= 0) & (cover != 3)
    covered = balanced((cover[known] == 2).astype(int), (y[known][:, :3].argmax(1) == 2).astype(int), (0, 1))
    known_face = (face >= 0) & np.array([h.weight == 1 for h in heads])
    faces = balanced(face[known_face], y[known_face][:, 4:8].argmax(1), range(4))
    known = smoking >= 0
    order = np.argsort(-y[known][:, 8])
    hits = smoking[known][order].cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    ap = float((precision * smoking[known][order]).sum() / max(1, smoking[known].sum()))
    return {"covered": round(covered, 4), "face": round(faces, 4), "smoking_ap": round(ap, 4)}, covered + 0.5 * faces + ap


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--answers", required=True, help="what teach.py wrote")
    ap.add_argument("--out", required=True)
    ap.add_argument("--epochs", type=int, default=24)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--rate", type=float, default=8e-4)
    ap.add_argument("--seed", type=int, default=11)
    ap.add_argument("--every", type=int, default=2)
    ap.add_argument("--bf16", action="store_true")
    a = ap.parse_args()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    random.seed(a.seed), np.random.seed(a.seed), torch.manual_seed(a.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    heads, held, _ = crops.parts(a.data, a.answers)
    print(f"{len(heads)} heads to train on, {len(held)} held out", flush=True)
    net = HeadsNet().to(device, memory_format=torch.channels_last)
    smooth = copy.deepcopy(net)
    opt = torch.optim.AdamW(net.parameters(), lr=a.rate, weight_decay=0.02)
    first, step, best = 0, 0, -1.0
    if (out / "last.pt").exists():
        s = torch.load(out / "last.pt", weights_only=True, map_location=device)
        net.load_state_dict(s["net"]), smooth.load_state_dict(s["smooth"]), opt.load_state_dict(s["opt"])
        first, step, best = s["epoch"] + 1, s["step"], s["best"]
    per_epoch = len(Crops(heads, a.seed, 0)) // a.batch
    for epoch in range(first, a.epochs):
        start, total = time.time(), 0.0
        loader = torch.utils.data.DataLoader(Crops(heads, a.seed, epoch), a.batch, num_workers=1, drop_last=True, prefetch_factor=4)
        net.train()
        for images, labels, weight in loader:
            for g in opt.param_groups:
                g["lr"] = rate(step, per_epoch * a.epochs, a.rate, 150)
            x = images.to(device).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=a.bf16):
                y = net(x)
            loss = loss_of(y.float(), labels.to(device), weight.float().to(device))
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            opt.step()
            step += 1
            total += loss.item()
            follow(smooth, net, step, 0.998)
        line = {"epoch": epoch, "seconds": round(time.time() - start, 1), "loss": round(total / per_epoch, 4)}
        if (epoch + 1) % a.every == 0 or epoch + 1 == a.epochs:
            scores, mean = held_out_score(smooth, held, device)
            line |= scores
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
