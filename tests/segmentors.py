"""Small segmentors with mmseg's own heads."""

from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

import repvgg_seg.openmmlab  # noqa: F401  (registers the backbones)
from tests.conftest import TINY, randomise


def segmentor(head: str = 'PSPHead', variant=TINY, classes: int = 5, **backbone) -> nn.Module:
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
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
        ),
        backbone=dict(type='RepVGGplus' if variant.se == 'post' else 'RepVGG', arch=variant, **backbone),
        decode_head=decode_head,
        test_cfg=dict(mode='whole'),
    )
    return randomise(MODELS.build(model)).eval()
