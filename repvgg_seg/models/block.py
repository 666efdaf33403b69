"""The RepVGG block and the algebra that turns its three branches into one 3x3 convolution.

Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.3;
the SE variants are those of the authors' repository (github.com/DingXiaoH/RepVGG).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .quantizer import FakeQuantizer
from .variants import SEPosition

NormLayer = Callable[[int], nn.Module]


class SEBlock(nn.Module):
    """Squeeze-and-excitation: scales each channel by a gate computed from its mean over the whole map.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
    """

    def __init__(self, channels: int, squeezed_channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, squeezed_channels, 1)
        self.up = nn.Conv2d(squeezed_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
        gate = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        return x * torch.sigmoid(self.up(F.relu(self.down(gate))))


def fuse_conv_bn(kernel: Tensor, bn: Any, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fold the inference-time batch norm that follows a convolution into its kernel and bias.

    `kernel` is (C_out, C_in / groups, k, k); returns a kernel of that shape and a bias (C_out,), both in
    float32 or better whatever the weights are stored in, and both differentiable. `bn` may be an nn.Identity.

    Raises:
        ValueError: the norm keeps no running statistics, so it has no fixed inference-time form.
    """
    dtype = torch.promote_types(kernel.dtype, torch.float32)
    kernel, bias = kernel.to(dtype), kernel.new_zeros(len(kernel), dtype=dtype) if bias is None else bias.to(dtype)
    if isinstance(bn, nn.Identity):
        return kernel, bias
    mean, var = getattr(bn, 'running_mean', None), getattr(bn, 'running_var', None)
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        raise ValueError(
            f'cannot fuse {type(bn).__name__}: it keeps no running statistics. Build the network with a batch norm '
            'whose track_running_stats is True.'
        )
    scale = (var.to(dtype) + bn.eps).rsqrt()
    if isinstance(bn.weight, Tensor):  # None where affine=False
        scale = scale * bn.weight.to(dtype)
    bias = (bias - mean.to(dtype)) * scale
    if isinstance(bn.bias, Tensor):
        bias = bias + bn.bias.to(dtype)
    return kernel * scale.reshape(-1, 1, 1, 1), bias


class ConvBN(nn.Sequential):
    """A bias-free convolution and its norm, or nn.Identity, under the official names `conv` and `bn`."""

    conv: nn.Conv2d
    bn: nn.Module

    def __init__(self, conv: nn.Conv2d, bn: nn.Module) -> None:
        super().__init__()
        self.add_module('conv', conv)
        self.add_module('bn', bn)


class RepVGGBlock(nn.Module):
    """3x3 convolution, 1x1 convolution and identity in parallel, each with batch norm, then ReLU.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)). Deployed, the three branches are
    the one convolution `rbr_reparam`. `se='pre'` gates before the ReLU (RepVGG-D2se), `'post'` after (RepVGGplus).

    `post_norm` makes the block of QARepVGG: a batch norm `bn` behind the sum, and none in the 1x1 and the identity
    branch, which keeps the ranges of kernel and output narrow enough for 8 bits. A deployed block, too, may get a norm
    behind its convolution, to be trained further: see `deploy.insert_bn`. With a `quantizer` it computes with its
    equivalent kernel and rounds as int8 does: see `models.quantized`.

    Source: of `post_norm`, Chu et al., "Make RepVGG Greater Again: A Quantization-Aware Approach", AAAI 2024 (setting
    S4; so in YOLOv6, whose norm has the same name).

    Raises:
        ValueError: `norm_layer` does not make batch norms with running statistics, which alone can be folded into a
            convolution, or another argument makes no block.
    """

    rbr_dense: ConvBN
    rbr_1x1: ConvBN
    rbr_identity: nn.Module | None
    rbr_reparam: nn.Conv2d
    bn: nn.Module  # behind the sum of the branches, or their fused form; nn.Identity if there is none
    quantizer: FakeQuantizer | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        se: SEPosition | None = None,
        se_ratio: int = 16,
        deploy: bool = False,
        norm_layer: NormLayer = nn.BatchNorm2d,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, stride, dilation, groups) < 1:
            raise ValueError(
                'channels, stride, dilation and groups must be positive; got '
                f'channels {in_channels} and {out_channels}, stride {stride}, dilation {dilation}, groups {groups}'
            )
        if se not in (None, 'pre', 'post'):
            raise ValueError(f"se must be None, 'pre' or 'post'; got {se!r}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.dilation, self.groups = stride, dilation, groups
        squeezed = max(1, out_channels // se_ratio)
        self.se = SEBlock(out_channels, squeezed) if se == 'pre' else nn.Identity()
        self.post_se = SEBlock(out_channels, squeezed) if se == 'post' else nn.Identity()
        self.nonlinearity = nn.ReLU()
        self.register_module('quantizer', None)
        self.bn = norm_layer(out_channels) if post_norm and not deploy else nn.Identity()
        if deploy:
            self.rbr_reparam = self._conv(3, bias=True)
            return
        branch_norm = nn.Identity if post_norm else norm_layer
        self.rbr_dense = ConvBN(self._conv(3), norm_layer(out_channels))
        self.rbr_1x1 = ConvBN(self._conv(1), branch_norm(out_channels))
        self.rbr_identity = branch_norm(in_channels) if in_channels == out_channels and stride == 1 else None
        norm = self.rbr_dense.bn
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            lacks = ' without running statistics' if isinstance(norm, _BatchNorm) else ''
            raise ValueError(
                f'{type(norm).__name__}{lacks} cannot be folded into a convolution: '
                'RepVGG needs a batch norm (BN, SyncBN, ...) that tracks them'
            )

    def _conv(self, kernel_size: int, bias: bool = False) -> nn.Conv2d:
        """Make a branch of this block, or its deployed form: the one place that writes the geometry."""
        return nn.Conv2d(
            self.in_channels,
            self.out_channels,
            kernel_size,
            # The 1x1 branch sees a map that is already strided: see forward.
            stride=self.stride if kernel_size > 1 else 1,
            padding=kernel_size // 2 * self.dilation,
            dilation=self.dilation if kernel_size > 1 else 1,
            groups=self.groups,
            bias=bias,
        )

    @property
    def fused(self) -> bool:
        """Whether the branches are one convolution: read off the structure, so it cannot be wrong."""
        return 'rbr_reparam' in self._modules

    @property
    def deploy(self) -> bool:
        """Whether the block is one convolution, without a norm behind it."""
        return self.fused and isinstance(self.bn, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:  # (N, C_in, H, W) -> (N, C_out, H', W')
        if self.quantizer is not None and self.quantizer.enabled:
            kernel, bias = self.get_equivalent_kernel_bias()
            conv = self.rbr_reparam if self.fused else self.rbr_dense.conv
            out = conv._conv_forward(self.quantizer(x), *self.quantizer.kernel_bias(kernel, bias))
        elif self.fused:
            out = self.bn(self.rbr_reparam(x))
        else:
            # A 1x1 convolution of stride s is a stride-1 one on every s-th pixel. Written so because, on CPUs, torch's
            # backward pass of the strided form corrupts memory: in channels_last, below 16 input channels (to 2.15).
            out = self.rbr_dense(x) + self.rbr_1x1(x[:, :, :: self.stride, :: self.stride])
            if self.rbr_identity is not None:
                out = out + self.rbr_identity(x)
            out = self.bn(out)
        return self.post_se(self.nonlinearity(self.se(out)))

    def get_equivalent_kernel_bias(self) -> tuple[Tensor, Tensor]:
        """Return the 3x3 kernel (C_out, C_in / groups, 3, 3) and bias (C_out,) that equal this block's branches.

        Differentiable, so it can also serve a penalty or quantization-aware training. At least float32.
        """
        if self.fused:
            return fuse_conv_bn(self.rbr_reparam.weight, self.bn, self.rbr_reparam.bias)
        kernel, bias = fuse_conv_bn(self.rbr_dense.conv.weight, self.rbr_dense.bn)
        kernel_1x1, bias_1x1 = fuse_conv_bn(self.rbr_1x1.conv.weight, self.rbr_1x1.bn)
        kernel, bias = kernel + F.pad(kernel_1x1, (1, 1, 1, 1)), bias + bias_1x1
        if self.rbr_identity is not None:
            # The identity is a 1x1 convolution in which channel c reads channel c, counted within its group.
            per_group = self.in_channels // self.groups
            eye = torch.eye(per_group, dtype=kernel.dtype, device=kernel.device).repeat(self.groups, 1)
            kernel_id, bias_id = fuse_conv_bn(eye.reshape(-1, per_group, 1, 1), self.rbr_identity)
            kernel, bias = kernel + F.pad(kernel_id, (1, 1, 1, 1)), bias + bias_id
        return fuse_conv_bn(kernel, self.bn, bias)

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Replace the branches by the one convolution that equals them in eval mode; nothing to do if deployed."""
        if self.deploy:
            return
        weight = (self.rbr_reparam if self.fused else self.rbr_dense.conv).weight
        kernel, bias = self.get_equivalent_kernel_bias()
        fused = self._conv(3, bias=True).to(device=weight.device, dtype=weight.dtype)
        if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
            fused = fused.to(memory_format=torch.channels_last)
        fused.requires_grad_(weight.requires_grad)
        fused.weight.copy_(kernel)
        fused.bias.copy_(bias)  # type: ignore[union-attr]
        if not self.fused:
            del self.rbr_dense, self.rbr_1x1, self.rbr_identity
        self.rbr_reparam, self.bn = fused.train(self.training), nn.Identity()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Said here, not left to the loader: OpenMMLab's loads with strict=False, warns, and runs on random weights.
        foreign = 'rbr_dense.conv.weight' if self.fused else 'rbr_reparam.weight'
        if prefix + foreign in state_dict:
            have, need = ('train-time', 'deployed') if self.fused else ('deployed', 'train-time')
            cure = (
                'convert the checkpoint with tools/convert_deploy.py, or build the model with deploy=False'
                if self.fused
                else 'build the model with deploy=True (the deploy.py written beside the weights does)'
            )
            raise ValueError(f'these are {have} weights ({prefix}{foreign}) but the model is {need}: {cure}')
        super()._load_from_state_dict(state_dict, prefix, *args)
