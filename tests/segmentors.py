"""Small segmentors with mmseg's own heads."""

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

import repvgg_seg.openmmlab  # noqa: F401  (registers the backbones)
from repvgg_seg import RepVGGBlock
from tests.conftest import TINY, randomise

RGB = dict(type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def segmentor(head: str = 'PSPHead', variant=TINY, classes: int = 5, data_preprocessor=RGB, **backbone) -> nn.Module:
    """A PSPNet or UPerNet on a tiny trunk with random statistics in every norm; `classes=1` makes a sigmoid head."""
    register_all_modules()
    several = head.endswith('UPerHead')
    channels = [*variant.channels[1:]] if several else variant.channels[-1]
    decode_head = dict(
        type=head,
        in_channels=channels,
        in_index=[0, 1, 2, 3] if several else 3,
        channels=8,
        num_classes=max(2, classes),
        out_channels=classes,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=classes == 1),
    )
    if classes == 1:
        decode_head['threshold'] = 0.4
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=data_preprocessor,
        backbone=dict(type='RepVGGplus' if variant.se == 'post' else 'RepVGG', arch=variant, **backbone),
        decode_head=decode_head,
        test_cfg=dict(mode='whole'),
    )
    return randomise(MODELS.build(model)).eval()


@MODELS.register_module()
class BlockNeck(nn.Module):
    """A neck of RepVGG blocks, which change no sizes."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RepVGGBlock(count, count) for count in channels)

    def forward(self, maps: tuple) -> tuple:
        return tuple(block(x) for block, x in zip(self.blocks, maps, strict=True))


@MODELS.register_module()
class BlockHead(BaseDecodeHead):
    """A decode head of one RepVGG block."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.block = RepVGGBlock(self.in_channels, self.channels)

    def forward(self, maps: tuple) -> torch.Tensor:
        return self.cls_seg(self.block(self._transform_inputs(maps)))
