"""What the detector is taught with: YOLOX's loss (https://arxiv.org/abs/2107.08430) with ignore regions."""

import torch
import torch.nn.functional as F


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


def giou_pairs(a, b):
    """Generalised IoU of matching rows: still has a slope where boxes do not touch."""
    iou = iou_pairs(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    area = lambda v: (v[..., 2:] - v[..., :2]).clamp(min=0).prod(-1)
    union = (area(a) + area(b)) / (1 + iou)
    return iou - (hull - union) / (hull + 1e-9)


@torch.no_grad()
def assign(boxes, logits, truth, points, strides):
    """Give each object the cells that fit it best (SimOTA).

    A cell is a candidate if its centre lies in the object's box, or within 1.5 cells of the box's centre.
    Cost = class loss + 3 x box loss.  Each object takes as many cells as the sum of its ten best overlaps; a
    cell wanted by several goes to the cheapest.  Returns the cells taken, their objects and their overlaps.
    """
    centre = (points + 0.5) * strides
    box = truth[:, None, 1:]
    within = torch.cat((centre[None] - box[..., :2], box[..., 2:] - centre[None]), 2).amin(2) > 0
    near = ((centre[None] - (box[..., :2] + box[..., 2:]) / 2).abs() < 1.5 * strides[None]).all(2)
    cells = (within | near).any(0).nonzero()[:, 0]
    iou = iou_pairs(boxes[cells][None], box)
    # The classes' losses differ in one term only, so one sum serves all objects.
    score = (logits[cells, :1].sigmoid() * logits[cells, 1:].sigmoid()).sqrt().clamp(1e-6, 1 - 1e-6)
    wrong = -(1 - score).log()
    mistake = wrong.sum(1)[None] + (-score.log() - wrong).T[truth[:, 0].long()]
    cost = mistake - 3 * (iou + 1e-8).log() + 1e5 * ~(within & near)[:, cells]
    count = iou.topk(min(10, len(cells)), 1).values.sum(1).int().clamp(min=1)
    order = cost.topk(min(10, len(cells)), 1, largest=False).indices
    taken = torch.zeros_like(iou, dtype=torch.bool)
    taken.scatter_(1, order, torch.arange(order.shape[1])[None] < count[:, None])
    cheapest = torch.zeros_like(taken)
    cheapest[cost.argmin(0), torch.arange(len(cells))] = True
    taken = torch.where(taken.sum(0, keepdim=True) > 1, cheapest & taken.any(0), taken)
    one, cell = taken.nonzero(as_tuple=True)
    return cells[cell], one, iou[one, cell]


@torch.no_grad()
def ignored(boxes, regions, points, strides):
    """True for cells whose box is a doubtful object's, or whose centre lies in a small region."""
    r = regions[None, :, 1:]
    doubtful = iou_pairs(boxes[:, None], r) > 0.3
    c = ((points + 0.5) * strides)[:, None]
    small = (r[..., 2:] - r[..., :2]).amax(-1) < 48
    return (doubtful | (((c > r[..., :2]) & (c < r[..., 2:])).all(2) & small)).any(1)


def loss_of(out, rows, points, strides):
    """Total of box, object and class losses of a batch, each per assigned cell, and the three."""
    classes = out.shape[2] - 5
    boxes = decode_boxes(out[..., :4], points, strides)
    want, weight = torch.zeros(out.shape[:2]), torch.ones(out.shape[:2])
    chosen, objects, quality = [], [], []
    for i, r in enumerate(rows):
        real, skip = r[r[:, 0] >= 0], r[r[:, 0] < 0]
        if len(skip):
            weight[i][ignored(boxes[i].detach(), skip, points, strides)] = 0
        if not len(real):
            continue
        cells, one, iou = assign(boxes[i].detach(), out[i, :, 4:].detach(), real, points, strides)
        want[i, cells] = 1
        weight[i, cells] = 1
        chosen.append(i * out.shape[1] + cells)
        objects.append(real[one])
        quality.append(iou)
    obj = (F.binary_cross_entropy_with_logits(out[..., 4], want, reduction="none") * weight).sum()
    if not chosen:
        return obj, (0.0, obj.item(), 0.0)
    chosen, objects, quality = torch.cat(chosen), torch.cat(objects), torch.cat(quality)
    n = len(chosen)
    box = (1 - giou_pairs(boxes.reshape(-1, 4)[chosen], objects[:, 1:])).sum()
    target = F.one_hot(objects[:, 0].long(), classes).float() * quality[:, None]
    cls = F.binary_cross_entropy_with_logits(out[..., 5:].reshape(-1, classes)[chosen], target, reduction="sum")
    return (5 * box + obj + cls) / n, (box.item() / n, obj.item() / n, cls.item() / n)
