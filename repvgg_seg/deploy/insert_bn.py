"""Batch norms behind fused kernels: the authors' way to train a deployed network further, with fake quantization.

Each norm gets the statistics of what its convolution makes of images, and the gamma and beta that undo them, so that at
first it changes nothing.

Source: RepVGG's authors, in the README of their repository (quantization).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..models.block import RepVGGBlock
from .convert import VerificationError
from .graph import InferenceGraph

MAX_REL = 1e-4  # of the logits, by the rounding of float32 in norms that do nothing


def insert_norms(model: nn.Module) -> list[RepVGGBlock]:
    """Put a batch norm behind the convolution of each deployed block of `model`, in place, and return the blocks."""
    blocks = [module for module in model.modules() if isinstance(module, RepVGGBlock) and module.deploy]
    for block in blocks:
        weight = block.rbr_reparam.weight
        block.bn = nn.BatchNorm2d(block.out_channels, device=weight.device, dtype=weight.dtype).train(block.training)
    return blocks


@torch.no_grad()
def insert_measured_norms(graph: InferenceGraph, batches: Iterable[Tensor]) -> float:
    """Put batch norms behind the fused kernels of `graph`, in place, that leave its logits as they are.

    `graph` is of a deployed segmentor, and `batches`, of images (N, H, W, C), go through it once: the norms' statistics
    are those of all pixels of all of them, summed up in float64. Returns the largest deviation of the logits of the
    last batch, relative to the largest of them.

    Raises:
        VerificationError: the logits have changed.
        ValueError: `graph` has no deployed block, a block has a norm or is quantized already, the weights are not
            finite, or there are no images.
    """
    blocks = [module for module in graph.modules() if isinstance(module, RepVGGBlock)]
    if not blocks:
        raise ValueError('the model has no RepVGG block: there is no kernel to put a batch norm behind')
    if not all(block.deploy for block in blocks):
        raise ValueError('the model is not deployed: convert it first, see tools/convert_deploy.py')
    if any(block.quantizer for block in blocks):
        raise ValueError('the model is quantized already: insert batch norms into a float one')
    for name, parameter in graph.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f'the weight {name} holds NaN or infinite values: train or convert the model again')
    sums: dict[nn.Module, Tensor] = {}  # of values, of their squares, and how many there are: (3, C)

    def add(conv: nn.Module, _: Any, out: Tensor) -> None:
        x = out.double().transpose(0, 1).flatten(1)  # (C, N * H * W)
        new = torch.stack([x.sum(1), x.square().sum(1), torch.full_like(x[:, 0], x.shape[1])])
        sums[conv] = sums[conv] + new if conv in sums else new

    hooks = [block.rbr_reparam.register_forward_hook(add) for block in blocks]
    try:
        for images in batches:
            before = graph.scores(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not sums:
        raise ValueError('there are no images to measure the statistics of the batch norms with')
    for block in insert_norms(graph):
        norm: Any = block.bn
        total, squares, number = sums[block.rbr_reparam]
        mean = total / number
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((squares / number - mean.square()).clamp_min(0))
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)
    deviation = ((graph.scores(images) - before).abs().max() / before.abs().max()).item()
    if not deviation <= MAX_REL:  # written so that NaN fails
        raise VerificationError(
            f'batch norms behind the kernels change the logits by {deviation:.3g}, where {MAX_REL:g} is allowed: a '
            'channel may be constant, or so large that float32 cannot undo its norm. Nothing was written.'
        )
    return deviation
