"""The light head: what it computes, that conversion fuses it with the trunk, and what it refuses."""

import re

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from repvgg_seg import RepVGGBlock
from repvgg_seg.openmmlab import FastHead
from tests.conftest import randomise

register_all_modules()

CHANNELS = (4, 6, 8, 12)
SIZES = ((37, 50), (19, 25), (10, 13), (5, 7))


def head(**kwargs) -> FastHead:
    arguments = dict(type='FastHead', in_channels=CHANNELS[1:], channels=8, num_classes=5, align_corners=False)
    return randomise(MODELS.build({**arguments, **kwargs})).double().eval()


def maps() -> list[Tensor]:
    return [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip(CHANNELS, SIZES, strict=True)]


@pytest.mark.parametrize('align_corners', [False, True])
def test_the_head_sums_from_the_smallest_map_to_the_largest(align_corners: bool) -> None:
    model = head(pool_scales=(1, 3), align_corners=align_corners)
    _, eighth, sixteenth, last = inputs = maps()

    def enlarged(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=align_corners)

    with torch.no_grad():
        out = model.laterals[2](last)
        for scale, conv in zip((1, 3), model.context, strict=True):
            out = out + enlarged(conv(F.adaptive_avg_pool2d(last, scale)), last)
        out = model.blocks[2](out)
        out = model.blocks[1](model.laterals[1](sixteenth) + enlarged(out, sixteenth))
        out = model.blocks[0](model.laterals[0](eighth) + enlarged(out, eighth))
        assert torch.allclose(model(inputs), model.conv_seg(out), rtol=0, atol=1e-12)


def test_the_head_reads_other_maps_without_context() -> None:
    model = head(in_channels=CHANNELS, in_index=[0, 1, 2, 3], pool_scales=(), blocks=2)
    assert model(maps()).shape == (2, 5, *SIZES[0])
    assert not model.context and sum(isinstance(m, RepVGGBlock) for m in model.modules()) == 8


def test_an_image_alone_trains() -> None:
    model = head().train()  # a norm behind the pooled map of one cell would refuse a batch of one
    model([x[:1] for x in maps()]).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters())


@pytest.mark.parametrize('arguments', [dict(in_index=3), dict(blocks=0), dict(pool_scales=(1, 0))])
def test_arguments_that_make_no_head_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match='reads a list of maps'):
        head(**arguments)


def test_a_norm_that_cannot_be_fused_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("use type='BN' or 'SyncBN'")):
        head(norm_cfg=dict(type='GN', num_groups=2))


def test_the_head_fuses_like_the_trunk() -> None:
    model, inputs = head(blocks=2), maps()
    expected = model(inputs)
    for block in model.modules():
        if isinstance(block, RepVGGBlock):
            block.switch_to_deploy()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.blocks.modules())
    assert torch.allclose(model(inputs), expected, rtol=0, atol=1e-11 * expected.abs().max().item())
