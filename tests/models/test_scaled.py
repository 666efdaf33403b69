"""Networks made hard to quantize: the same function, other ranges."""

import copy

import pytest
import torch

from repvgg_seg import RepVGG, switch_to_deploy
from repvgg_seg.models.scaled import scale_between_blocks
from tests.conftest import TINY_GROUPED, TINY_SE, randomise, relative


@pytest.mark.parametrize('deploy', [False, True])
@torch.no_grad()
def test_the_ranges_of_channels_differ_and_the_maps_do_not(deploy: bool) -> None:
    net, inside = randomise(RepVGG(TINY_GROUPED)).eval(), []
    if deploy:
        net = switch_to_deploy(net)
    scaled, x = copy.deepcopy(net), torch.randn(1, 3, 64, 96)
    assert scale_between_blocks(scaled) == 1 + 1 + 1 + 2  # behind the stem and between the blocks of each stage
    for new, old in zip(scaled(x), net(x), strict=True):
        assert relative(new, old) < 1e-6
    for model in (net, scaled):
        model.stage3[1].register_forward_hook(lambda module, args, out: inside.append(out.amax((0, 2, 3))))
        model(x)
    factors = (inside[1] / inside[0])[inside[0] > 0].log2()
    assert torch.equal(factors, factors.round()) and factors.max() - factors.min() > 6


def test_other_blocks_are_refused() -> None:
    for options in (dict(arch=TINY_SE), dict(arch=TINY_GROUPED, block='qarepvgg')):
        with pytest.raises(ValueError, match='only plain RepVGG blocks are scaled'):
            scale_between_blocks(RepVGG(**options))
