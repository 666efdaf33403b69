"""Networks that are hard to quantize, made of easy ones: channels between blocks are scaled, the function is not.

ReLU lets factors above zero pass. So what a block multiplies a channel by, the next one can divide it by. Only one
range is left for channels of very different sizes, and 8 bits hold little of the small ones.

Source: the reverse of what Nagel et al. do, "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from .block import RepVGGBlock
from .trunk import RepVGG


@torch.no_grad()
def scale_between_blocks(trunk: RepVGG, largest: float = 1000.0, seed: int = 0) -> int:
    """Scale the channels between the blocks of each stage, in place, and return between how many blocks.

    The factors are powers of two, which no rounding meets, of up to `largest` between two channels. The maps that
    `trunk` returns stay as they are, in its train-time and in its deployed form.

    Raises:
        ValueError: there is more in a block than branches and a ReLU.
    """
    generator = torch.Generator().manual_seed(seed)
    stages: list[list[Any]] = [list(stage) for stage in trunk.stages]
    pairs = [pair for blocks in [[trunk.stage0, stages[0][0]], *stages] for pair in itertools.pairwise(blocks)]
    for before, behind in pairs:
        powers = math.log2(largest) * (torch.rand(before.out_channels, generator=generator) - 0.5)
        scale = 2 ** powers.round()
        _scale_output(before, scale.to(next(trunk.parameters())))
        _scale_input(behind, 1 / scale.to(next(trunk.parameters())))
    return len(pairs)


def _scale_output(block: RepVGGBlock, scale: Tensor) -> None:
    if not all(isinstance(part, nn.Identity) for part in (block.bn, block.se, block.post_se)):
        raise ValueError('only plain RepVGG blocks are scaled, without squeeze-and-excitation or a norm behind the sum')
    if block.fused:
        block.rbr_reparam.weight *= scale[:, None, None, None]
        block.rbr_reparam.bias *= scale  # type: ignore[operator]
        return
    norms: list[Any] = [block.rbr_dense.bn, block.rbr_1x1.bn, block.rbr_identity]
    for norm in norms:
        if norm is not None:
            norm.weight *= scale
            norm.bias *= scale


def _scale_input(block: RepVGGBlock, scale: Tensor) -> None:
    convolutions = [block.rbr_reparam] if block.fused else [block.rbr_dense.conv, block.rbr_1x1.conv]
    for conv in convolutions:
        grouped = conv.weight.unflatten(0, (block.groups, -1))  # (groups, O / groups, C / groups, k, k)
        grouped *= scale.reshape(block.groups, 1, -1, 1, 1)
    norm: Any = None if block.fused else block.rbr_identity
    if norm is not None:
        norm.running_mean /= scale
        norm.weight *= scale
