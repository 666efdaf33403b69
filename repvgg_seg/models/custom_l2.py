"""The custom L2 penalty: weight decay on the kernel that will be deployed, not on the branches that train it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .block import ConvBN, RepVGGBlock


def custom_l2(model: nn.Module) -> Tensor:
    """Return the custom L2 penalty of all train-time RepVGG blocks in `model`: a differentiable scalar.

    For each block, with t = gamma / sqrt(var + eps) taken as a constant, it is the squared norm of the eight outer
    elements of the 3x3 kernel K3 plus that of the centre of the equivalent kernel, (K3_centre t3 + K1 t1) normalised
    by t3^2 + t1^2. Multiply by half the weight decay, and switch the ordinary decay of these kernels off.

    Source: the authors' repository, `get_custom_L2`; they later called its gain insignificant.

    Raises:
        ValueError: `model` has no train-time RepVGG block.
    """
    blocks = [m for m in model.modules() if isinstance(m, RepVGGBlock) and not m.fused]
    if not blocks:
        raise ValueError('custom_l2 needs a model with train-time RepVGG blocks; this one has none (is it deployed?)')
    return torch.stack([_block_l2(block) for block in blocks]).sum()


def _block_l2(block: RepVGGBlock) -> Tensor:
    kernel, kernel_1x1 = block.rbr_dense.conv.weight, block.rbr_1x1.conv.weight
    t3, t1 = _scale(block.rbr_dense), _scale(block.rbr_1x1)
    centre = kernel[:, :, 1:2, 1:2]  # (C_out, C_in / groups, 1, 1)
    outer = kernel.square().sum() - centre.square().sum()
    # Where both gammas are zero the equivalent kernel is zero too; the clamp makes that 0, not 0 / 0.
    norm = (t3.square() + t1.square()).clamp_min(torch.finfo(t3.dtype).tiny)
    return outer + ((centre * t3 + kernel_1x1 * t1).square() / norm).sum()


def _scale(branch: ConvBN) -> Tensor:
    """Return gamma / sqrt(var + eps) of the branch's norm as (C, 1, 1, 1), detached.

    A norm behind the sum of the branches scales them alike, and so has no part in the normalised penalty.
    """
    bn: Any = branch.bn
    if isinstance(bn, nn.Identity):
        return torch.ones_like(branch.conv.weight[:, :1, :1, :1])
    scale = (bn.running_var + bn.eps).rsqrt()
    scale = scale if bn.weight is None else scale * bn.weight
    return scale.detach().reshape(-1, 1, 1, 1)
