"""YOLOX-nano written out as a plain PyTorch module, with ReLU in place of SiLU.

ReLU can be folded into an int8 convolution, SiLU cannot; and because it is positively
homogeneous, scale can be moved from one layer to the next before int8 (quantise.py).

The start weights come from an ONNX file in which batch normalisation is already
folded into the convolutions.  `add_norms` puts it back for training (without it the
rat class learnt about three times slower) and `fold_norms` takes it out for export.

The modules are declared in the order in which they run.  The ONNX file lists its
convolutions in the same order, which is all the weight loader relies on (together
with a check of every shape).
"""

import math

import torch
from torch import nn
import torch.nn.functional as F

import front

STRIDES = (8, 16, 32)


class Conv(nn.Module):
    """Convolution with bias, same padding, normalisation while training, activation (see `activate`)."""

    act = staticmethod(F.relu)

    def __init__(self, cin, cout, k=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups)
        self.norm = nn.Identity()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Separable(nn.Module):
    """Depthwise 3x3 followed by pointwise 1x1: the nano variant's cheap 3x3."""

    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.depth = Conv(cin, cin, 3, stride, groups=cin)
        self.point = Conv(cin, cout)

    def forward(self, x):
        return self.point(self.depth(x))


class Bottleneck(nn.Module):
    """1x1 then separable 3x3, with an optional skip."""

    def __init__(self, width, skip):
        super().__init__()
        self.reduce = Conv(width, width)
        self.mix = Separable(width, width)
        self.skip = skip

    def forward(self, x):
        y = self.mix(self.reduce(x))
        return x + y if self.skip else y


class Csp(nn.Module):
    """Cross-stage block: half the channels go through bottlenecks, half go past."""

    def __init__(self, cin, cout, depth, skip):
        super().__init__()
        half = cout // 2
        self.through = Conv(cin, half)
        self.past = Conv(cin, half)
        self.blocks = nn.Sequential(*[Bottleneck(half, skip) for _ in range(depth)])
        self.join = Conv(2 * half, cout)

    def forward(self, x):
        return self.join(torch.cat((self.blocks(self.through(x)), self.past(x)), 1))


class Pyramid(nn.Module):
    """Max pooling at three window sizes, joined: a wide view at stride 32."""

    def __init__(self, cin, cout):
        super().__init__()
        self.reduce = Conv(cin, cin // 2)
        self.pools = nn.ModuleList([nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13)])
        self.join = Conv(2 * cin, cout)

    def forward(self, x):
        x = self.reduce(x)
        return self.join(torch.cat([x] + [p(x) for p in self.pools], 1))


class Head(nn.Module):
    """Decoupled head of one level: classes on one branch, box + object on the other."""

    def __init__(self, cin, classes, width=64):
        super().__init__()
        self.stem = Conv(cin, width)
        self.cls_branch = nn.Sequential(Separable(width, width), Separable(width, width))
        self.cls = nn.Conv2d(width, classes, 1)
        self.reg_branch = nn.Sequential(Separable(width, width), Separable(width, width))
        self.reg = nn.Conv2d(width, 4, 1)
        self.obj = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        r = self.reg_branch(x)
        return torch.cat((self.reg(r), self.obj(r), self.cls(self.cls_branch(x))), 1)


def space_to_depth(x):
    """Four pixel phases become channels; order: even/odd rows inside even/odd columns."""
    return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)


def activate(act):
    """Which activation the networks made from now on have: `relu`, which keeps int8 whole, or `silu`."""
    Conv.act = staticmethod({"relu": F.relu, "silu": F.silu}[act])


class YoloxNano(nn.Module):
    """Returns [N, A, 5 + classes]: raw cx, cy, w, h, then object and class logits."""

    def __init__(self, classes):
        super().__init__()
        self.stem = Conv(12, 16, 3)
        self.down2 = Separable(16, 32, 2)
        self.csp2 = Csp(32, 32, 1, True)
        self.down3 = Separable(32, 64, 2)
        self.csp3 = Csp(64, 64, 3, True)
        self.down4 = Separable(64, 128, 2)
        self.csp4 = Csp(128, 128, 3, True)
        self.down5 = Separable(128, 256, 2)
        self.spp = Pyramid(256, 256)
        self.csp5 = Csp(256, 256, 1, False)
        self.lat5 = Conv(256, 128)
        self.up4 = Csp(256, 128, 1, False)
        self.lat4 = Conv(128, 64)
        self.up3 = Csp(128, 64, 1, False)
        self.bot3 = Separable(64, 64, 2)
        self.out4 = Csp(128, 128, 1, False)
        self.bot4 = Separable(128, 128, 2)
        self.out5 = Csp(256, 256, 1, False)
        self.heads = nn.ModuleList([Head(c, classes) for c in (64, 128, 256)])

    def features(self, x):
        """The three levels handed to the heads."""
        x = self.csp2(self.down2(self.stem(space_to_depth(x))))
        c3 = self.csp3(self.down3(x))
        c4 = self.csp4(self.down4(c3))
        c5 = self.csp5(self.spp(self.down5(c4)))
        l5 = self.lat5(c5)
        p4 = self.up4(torch.cat((F.interpolate(l5, scale_factor=2, mode="nearest"), c4), 1))
        l4 = self.lat4(p4)
        p3 = self.up3(torch.cat((F.interpolate(l4, scale_factor=2, mode="nearest"), c3), 1))
        n4 = self.out4(torch.cat((self.bot3(p3), l4), 1))
        n5 = self.out5(torch.cat((self.bot4(n4), l5), 1))
        return p3, n4, n5

    def forward(self, x):
        levels = [h(f).flatten(2) for h, f in zip(self.heads, self.features(x))]
        return torch.cat(levels, 2).transpose(1, 2)


class ForExport(nn.Module):
    """The network as the application runs it: object and class scores as probabilities."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        y = self.net(images)
        return torch.cat((y[..., :4], y[..., 4:].sigmoid()), 2)


def load_coco(net, onnx_path, kept):
    """Copy the folded COCO weights.

    `kept` maps a class of ours to the COCO class whose scores it starts from; the others start fresh, and
    object scores stay COCO's.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(onnx_path).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    source = [n for n in graph.node if n.op_type == "Conv"]
    target = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    if len(source) != len(target):
        raise ValueError(f"{len(source)} convolutions in the file, {len(target)} here")
    scores = {id(h.cls) for h in net.heads}
    for node, layer in zip(source, target):
        weight, bias = (torch.from_numpy(tensors[n].copy()) for n in node.input[1:3])
        if id(layer) in scores:
            reset_score(layer)
            for ours, theirs in kept.items():
                layer.weight.data[ours], layer.bias.data[ours] = weight[theirs], bias[theirs]
            continue
        if weight.shape != layer.weight.shape:
            raise ValueError(f"{node.name}: {tuple(weight.shape)} for {tuple(layer.weight.shape)}")
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)


def load_own(net, onnx_path):
    """Go on from a network that export.py wrote."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(onnx_path).graph
    tensors = {t.name.removeprefix("net."): numpy_helper.to_array(t) for t in graph.initializer}
    stem = "stem.conv.weight"
    if tensors[stem].shape[1] == 3:  # as front.py writes it; before version 5 it was of twelve planes
        tensors[stem] = front.sorted_stem(tensors[stem])
    wanted = net.state_dict()
    missing = [n for n in wanted if n not in tensors or tensors[n].shape != tuple(wanted[n].shape)]
    if missing:
        raise ValueError(f"{onnx_path} is not a network of these classes: no {missing[0]}")
    net.load_state_dict({n: torch.from_numpy(tensors[n].copy()) for n in wanted})


def load_checkpoint(net, path):
    """Go on from the average of another run, normalisation and all."""
    add_norms(net).load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["smooth"])


def add_norms(net, images=None, was=F.relu):
    """Batch normalisation behind every convolution, set so that the network answers as before.

    `images` [N, 3, H, W] are pictures as the network sees them: their statistics are what is undone.
    Without them the norms start blank, to be loaded.  `was` is the activation that the weights were made
    for: where it is another, the norms give every channel the mean and spread that it had with that one.
    """
    blocks = [m for m in net.modules() if isinstance(m, Conv)]
    for block in blocks:
        width = block.conv.out_channels
        block.norm = nn.BatchNorm2d(width, eps=1e-3, momentum=0.03)

    def fit(norm, inputs):
        x = inputs[0]
        var, mean = torch.var_mean(x, (0, 2, 3), unbiased=False)
        norm.running_mean.copy_(mean), norm.running_var.copy_(var)
        if aim:
            norm.weight.data.copy_((var + norm.eps).sqrt()), norm.bias.data.copy_(mean)

    if images is not None:
        hooks = [b.norm.register_forward_pre_hook(fit) for b in blocks]
        net.eval()
        now = Conv.act
        with torch.no_grad():
            for act, aim in ((was, True), (now, False)):
                Conv.act = staticmethod(act)
                net(images)
        for hook in hooks:
            hook.remove()
    return net


def fold_norms(net):
    """The same network for inference: normalisation folded into the convolutions."""
    for block in (m for m in net.modules() if isinstance(m, Conv)):
        norm = block.norm
        if isinstance(norm, nn.Identity):
            continue
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        block.conv.weight.data.mul_(gain[:, None, None, None])
        block.conv.bias.data.copy_((block.conv.bias - norm.running_mean) * gain + norm.bias)
        block.norm = nn.Identity()
    return net


def reset_score(layer, prior=0.01):
    """Small weights and a bias that starts every score at `prior`: few false objects at first."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))


def grid(height, width, device=None):
    """Cell corners [A, 2] and strides [A, 1] in the row order of the output."""
    points, strides = [], []
    for s in STRIDES:
        ys, xs = torch.meshgrid(torch.arange(height // s), torch.arange(width // s), indexing="ij")
        points.append(torch.stack((xs, ys), 2).reshape(-1, 2).float())
        strides.append(torch.full((points[-1].shape[0], 1), float(s)))
    return torch.cat(points).to(device), torch.cat(strides).to(device)
