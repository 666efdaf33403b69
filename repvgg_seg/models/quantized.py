"""Quantization-aware training: a network that computes with the rounding to 8 bits that int8 will do to it.

The kernel that a layer rounds is the one that will be deployed: of a RepVGG block the equivalent kernel of its
branches, of a convolution with a batch norm behind it their product. Statistics of batch norms are those of the float
network that the training begins with, and stay. So the rounded kernel depends on parameters alone, what is evaluated is
what is exported, and a step computes one convolution a block. The affine parts of the norms are trained like kernels.

Source: the proposal of RepVGG's authors, in the README of their repository, to constrain the equivalent kernel.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .block import RepVGGBlock, fuse_conv_bn
from .quantizer import FakeQuantizer

Model = TypeVar('Model', bound=nn.Module)


class QuantizedConv2d(nn.Conv2d):
    """A convolution that rounds its input, and its kernel with the batch norm behind it; made by `fake_quantize`."""

    quantizer: FakeQuantizer
    # The module whose norm it computes along, if any. The norm stays that module's, so that its keys do, too.
    around: tuple[nn.Module, ...]

    def kernel_bias(self) -> tuple[Tensor, Tensor | None]:
        """Return kernel and bias with the norm folded in, not rounded."""
        kernel, bias = self.weight, self.bias
        for norm in filter(None, map(norm_behind, self.around)):
            kernel, bias = fuse_conv_bn(kernel, norm, bias)
        return kernel, bias

    def forward(self, x: Tensor) -> Tensor:  # (N, C_in, H, W) -> (N, C_out, H', W')
        return self._conv_forward(self.quantizer(x), *self.quantizer.kernel_bias(*self.kernel_bias()))


def norm_behind(module: nn.Module) -> _BatchNorm | None:
    """Return the batch norm that `module` calls right behind its convolution, if it does.

    Such are mmcv's ConvModule and its like, known by their attributes `conv`, `norm` and `order`.
    """
    pair: Any = module
    conv, norm, order = (getattr(pair, name, None) for name in ('conv', 'norm', 'order'))
    # A subclass of Conv2d may compute its kernel from its weight, and a norm in front is not foldable: the zeros
    # that pad its output are not the norm of any padding.
    known = type(conv) in (nn.Conv2d, QuantizedConv2d)
    return norm if known and isinstance(norm, _BatchNorm) and 'conv norm' in ' '.join(order or ()) else None


def fake_quantize(model: nn.Module, weight_bits: int = 8) -> None:
    """Let every RepVGG block and every other plain convolution of `model` compute with fake quantization, in place.

    Parameters and keys stay, but for the ranges `quantizer.low` and `quantizer.high` of each layer. Convolutions inside
    of a block, of its branches or of squeeze-and-excitation, are left alone. `weight_bits`: see FakeQuantizer.

    Raises:
        ValueError: it is quantized already, or to another number of bits.
    """
    if weight_bits not in (7, 8):
        raise ValueError(f'kernels are quantized to 8 bits, or to 7 for CPUs without VNNI, not to {weight_bits}')
    if any(isinstance(module, FakeQuantizer) for module in model.modules()):
        raise ValueError('this network is quantized already')
    blocks = [module for module in model.modules() if isinstance(module, RepVGGBlock)]
    inside = {part for block in blocks for part in block.modules()}
    for block in blocks:
        block.quantizer = FakeQuantizer(weight_bits)
    pairs: dict[nn.Module, Any] = {
        module.conv: module  # type: ignore[misc]
        for module in model.modules()
        if norm_behind(module) is not None
    }
    for module in list(model.modules()):
        if type(module) is nn.Conv2d and module not in inside:
            conv: Any = module
            conv.__class__ = QuantizedConv2d
            conv.quantizer = FakeQuantizer(weight_bits)
            conv.around = (pairs[module],) if module in pairs else ()
    for pair in pairs.values():
        pair.with_norm = False


def quantizers(model: nn.Module) -> list[FakeQuantizer]:
    """Return the quantizers of the layers of `model`: none of a float network."""
    return [module for module in model.modules() if isinstance(module, FakeQuantizer)]


def without_rounding(model: Model) -> Model:
    """Return a copy of `model` that computes in float; `model` itself if it does so already."""
    if quantizers(model):
        model = copy.deepcopy(model)
        for quantizer in quantizers(model):
            quantizer.enabled = False
    return model


@torch.no_grad()
def round_kernels(model: nn.Module) -> None:
    """Round kernels and biases of a deployed quantized `model` in place, so that its weights are those of int8."""
    for module in model.modules():
        if isinstance(module, RepVGGBlock) and module.quantizer is not None:
            _round(module.rbr_reparam, module.quantizer)
        elif isinstance(module, QuantizedConv2d):
            _round(module, module.quantizer)


def _round(conv: nn.Conv2d, quantizer: FakeQuantizer) -> None:
    kernel, bias = quantizer.kernel_bias(conv.weight, conv.bias)
    conv.weight.copy_(kernel)
    if conv.bias is not None and bias is not None:
        conv.bias.copy_(bias)
