"""Moves scale between layers so that every channel of a tensor uses the same share of its eight bits.

int8 gives an activation tensor one scale for all channels, while weights have one each.  ReLU, max pooling,
adding and joining pass a positive factor through, so a channel may leave its layer multiplied by t if all that
read it divide by t: the network answers as before (Nagel et al. 2019, https://arxiv.org/abs/1906.04721).  Where
only depthwise convolutions read a tensor nothing is lost by making all channels equally large, since their
weights have a scale a channel; elsewhere activations and weights share the burden.
"""

import torch

from net import Conv

MOST = 32.0  # a channel's factor against the others': one that is nearly dead stays so


def groups(net):
    """[(layers that write a tensor's channels, [(layer that reads them, first input channel)])]."""
    out = []

    def separable(s, readers):
        out.append(([s.depth], [(s.point, 0)]))
        out.append(([s.point], readers))

    def csp(c, readers):
        half = c.through.conv.out_channels
        skip = c.blocks[0].skip
        if skip:  # everything along the sum has one scale
            out.append(([c.through] + [b.mix.point for b in c.blocks], [(b.reduce, 0) for b in c.blocks] + [(c.join, 0)]))
        else:
            out.append(([c.through], [(c.blocks[0].reduce, 0)]))
        for i, b in enumerate(c.blocks):
            out.append(([b.reduce], [(b.mix.depth, 0)]))
            out.append(([b.mix.depth], [(b.mix.point, 0)]))
            if not skip:
                out.append(([b.mix.point], [(c.blocks[i + 1].reduce, 0) if i + 1 < len(c.blocks) else (c.join, 0)]))
        out.append(([c.past], [(c.join, half)]))
        out.append(([c.join], readers))

    into = lambda c, first=0: [(c.through, first), (c.past, first)]
    n = net
    out.append(([n.stem], [(n.down2.depth, 0)]))
    separable(n.down2, into(n.csp2))
    csp(n.csp2, [(n.down3.depth, 0)])
    separable(n.down3, into(n.csp3))
    csp(n.csp3, [(n.down4.depth, 0)] + into(n.up3, n.lat4.conv.out_channels))
    separable(n.down4, into(n.csp4))
    csp(n.csp4, [(n.down5.depth, 0)] + into(n.up4, n.lat5.conv.out_channels))
    separable(n.down5, [(n.spp.reduce, 0)])
    width = n.spp.reduce.conv.out_channels
    out.append(([n.spp.reduce], [(n.spp.join, k * width) for k in range(4)]))
    out.append(([n.spp.join], into(n.csp5)))
    csp(n.csp5, [(n.lat5, 0)])
    out.append(([n.lat5], into(n.up4) + into(n.out5, n.bot4.point.conv.out_channels)))
    csp(n.up4, [(n.lat4, 0)])
    out.append(([n.lat4], into(n.up3) + into(n.out4, n.bot3.point.conv.out_channels)))
    csp(n.up3, [(n.bot3.depth, 0), (n.heads[0].stem, 0)])
    separable(n.bot3, into(n.out4))
    csp(n.out4, [(n.bot4.depth, 0), (n.heads[1].stem, 0)])
    separable(n.bot4, into(n.out5))
    csp(n.out5, [(n.heads[2].stem, 0)])
    for h in n.heads:
        out.append(([h.stem], [(h.cls_branch[0].depth, 0), (h.reg_branch[0].depth, 0)]))
        separable(h.cls_branch[0], [(h.cls_branch[1].depth, 0)])
        separable(h.cls_branch[1], [(h.cls, 0)])
        separable(h.reg_branch[0], [(h.reg_branch[1].depth, 0)])
        separable(h.reg_branch[1], [(h.reg, 0), (h.obj, 0)])
    return out


def plain(layer):
    return layer.conv if isinstance(layer, Conv) else layer


@torch.no_grad()
def peaks(net, tensors, share=0.9999):
    """Of every layer's output the largest value per channel over the pictures; per picture the `share` quantile,
    so that a single pixel does not speak for a channel."""
    seen, hooks = {}, []
    for block in (m for m in net.modules() if isinstance(m, Conv)):
        def look(module, _, y):
            flat = y[0].flatten(1)
            top = flat.kthvalue(max(1, int(share * flat.shape[1])), 1).values
            seen[module] = torch.maximum(seen[module], top) if module in seen else top
        hooks.append(block.register_forward_hook(look))
    for t in tensors:
        net(torch.from_numpy(t))
    for h in hooks:
        h.remove()
    return seen


@torch.no_grad()
def equalise(net, tensors, rounds=2):
    """Scales the layers of a network without norms in place; it answers as before."""
    for _ in range(rounds):
        top = peaks(net, tensors)
        for writers, readers in groups(net):
            high = torch.stack([top[w] for w in writers]).amax(0)
            width = len(high)
            depthwise = all(plain(r).groups > 1 for r, _ in readers)
            live = high > 1e-3 * high.max()
            if depthwise:
                t = 1 / high.clamp(min=1e-9)
            else:
                low = torch.zeros(width)
                for r, first in readers:
                    w = plain(r).weight
                    w = w.abs().amax((1, 2, 3)) if plain(r).groups > 1 else w[:, first:first + width].abs().amax((0, 2, 3))
                    low = torch.maximum(low, w / w.max())
                t = (low.clamp(min=1e-4) / high.clamp(min=1e-9)).sqrt()
            middle = t[live].log().mean().exp() if live.any() else torch.tensor(1.0)
            t = torch.where(live, (t / middle).clamp(1 / MOST, MOST), torch.ones(width))
            for w in writers:
                w.conv.weight.mul_(t[:, None, None, None]), w.conv.bias.mul_(t)
                top[w] = top[w] * t
            for r, first in readers:
                if plain(r).groups > 1:
                    plain(r).weight.div_(t[:, None, None, None])
                else:
                    plain(r).weight[:, first:first + width].div_(t[None, :, None, None])
    return net
