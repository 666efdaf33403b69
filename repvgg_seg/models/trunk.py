"""The RepVGG trunk: a stem and four stages that return feature maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.torch_version import TorchVersion
from torch.utils.checkpoint import checkpoint

from .block import NormLayer, RepVGGBlock
from .quantizer import FakeQuantizer
from .variants import Variant, get_variant

Dilation = int | Sequence[int]
Block = Literal['repvgg', 'qarepvgg']

# Seen to hold in torch 2.15 and not to in 2.6; what lies between was not tried.
_COMPILER_UPDATES_ONCE = TorchVersion(torch.__version__) >= '2.15'


class RepVGG(nn.Module):
    """RepVGG without its classifier: (N, in_channels, H, W) -> tuple of (N, C_i, H_i, W_i), one map per out index.

    `arch` names a row of VARIANTS (or is a Variant); C_i is `VARIANTS[arch].channels[i + 1]`. Index 0 is the first
    stage after the stem, at 1/4 of the input with the default strides; stages beyond the last out index are not built.
    `strides` belong to the first block of each stage. Each of `dilations` is one dilation for all 3x3 convolutions of
    its stage or one per block. `with_cp` recomputes each block in the backward pass, which saves memory.
    `block='qarepvgg'` is made for int8: see `post_norm` of RepVGGBlock.

    Raises:
        ValueError: unknown `arch`, or an argument whose length or values do not fit it.
    """

    def __init__(
        self,
        arch: str | Variant,
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[Dilation] = (1, 1, 1, 1),
        deploy: bool = False,
        norm_layer: NormLayer = nn.BatchNorm2d,
        with_cp: bool = False,
        block: Block = 'repvgg',
    ) -> None:
        super().__init__()
        if block not in get_args(Block):
            raise ValueError(f'block must be one of {", ".join(get_args(Block))}; got {block!r}')
        self.variant = variant = get_variant(arch)
        self.out_indices = _checked_out_indices(out_indices)
        self.with_cp = with_cp
        if isinstance(strides, int) or len(strides) != 4 or not set(strides) <= {1, 2}:
            raise ValueError(f'strides must be four values of 1 or 2, one per stage; got {strides}')
        if isinstance(dilations, int) or len(dilations) != 4:
            raise ValueError(f'dilations must have four entries, one per stage; got {dilations}')
        per_block = [_per_block(*args) for args in zip(dilations, variant.blocks, (1, 2, 3, 4), strict=True)]

        def make(in_channels: int, out_channels: int, stride: int, dilation: int = 1, groups: int = 1) -> RepVGGBlock:
            return RepVGGBlock(
                in_channels,
                out_channels,
                stride=stride,
                dilation=dilation,
                groups=groups,
                se=variant.se,
                se_ratio=variant.se_ratio,
                deploy=deploy,
                norm_layer=norm_layer,
                post_norm=block == 'qarepvgg',
            )

        channels = variant.channels
        self.stage0 = make(in_channels, channels[0], stride=2)
        layer = 0  # blocks after the stem so far, over all stages: the even ones are grouped
        for index in range(self.out_indices[-1] + 1):
            stage = nn.Sequential()
            for position, dilation in enumerate(per_block[index]):
                layer += 1
                first = position == 0
                stage.append(
                    make(
                        channels[index] if first else channels[index + 1],
                        channels[index + 1],
                        stride=strides[index] if first else 1,
                        dilation=dilation,
                        groups=variant.groups_of(layer),
                    )
                )
            self.add_module(f'stage{index + 1}', stage)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages after the stem, in order."""
        return [getattr(self, f'stage{index + 1}') for index in range(self.out_indices[-1] + 1)]

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that `forward` returns."""
        return tuple(self.variant.channels[index + 1] for index in self.out_indices)

    def _run(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        """Pass `x` through `blocks`, one checkpoint each if activations are to be recomputed."""
        recompute = self.with_cp and self.training and torch.is_grad_enabled()
        for block in blocks:
            x = _checkpointed(block, x) if recompute else block(x)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # (N, C, H, W) -> ((N, C_i, H_i, W_i), ...)
        x = self._run([self.stage0], x)
        maps = []
        for index, stage in enumerate(self.stages):
            x = self._run(stage, x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run `block` so that its activations are recomputed in the backward pass."""
    if torch.compiler.is_compiling():
        # The compiler takes no contexts. Today's recomputes values only, never the update of a buffer; that of 2.6
        # repeats the update as well, so there the activations are kept.
        return checkpoint(block, x, use_reentrant=False) if _COMPILER_UPDATES_ONCE else block(x)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let batch norms and quantizers update copies of what they keep, so that this itself stays as it is.

    A checkpointed block runs twice a step; without this its statistics would be updated twice.
    """
    buffers = {m: m._buffers for m in block.modules() if isinstance(m, (_BatchNorm, FakeQuantizer))}
    for norm, originals in buffers.items():
        norm._buffers = {name: None if b is None else b.clone() for name, b in originals.items()}
    try:
        yield
    finally:
        for norm, originals in buffers.items():
            norm._buffers = originals


def _checked_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    indices = tuple(out_indices)
    if not indices or not set(indices) <= {0, 1, 2, 3} or list(indices) != sorted(set(indices)):
        raise ValueError(f'out_indices must be ascending stage indices out of 0, 1, 2, 3; got {indices}')
    return indices


def _per_block(dilation: Dilation, blocks: int, stage: int) -> tuple[int, ...]:
    per_block = (dilation,) * blocks if isinstance(dilation, int) else tuple(dilation)
    if not all(isinstance(d, int) and d >= 1 for d in per_block):
        raise ValueError(f'dilations must be positive integers; stage {stage} has {per_block}')
    if len(per_block) != blocks:
        raise ValueError(f'stage {stage} has {blocks} blocks but {len(per_block)} dilations: {per_block}')
    return per_block
