"""A light decode head of RepVGG blocks, for segmentors that run in real time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..models.block import RepVGGBlock
from ..models.folding import enlarge, map_size, pool_pyramid
from .backbone import batch_norm


@MODELS.register_module()
class FastHead(BaseDecodeHead):
    """A top-down pyramid: maps of several strides -> logits (N, num_classes, H, W) at the size of the first map.

    Each map is brought to `channels` by a 1x1 convolution. The last one also gets its context: what is pooled from it
    to `pool_scales`, enlarged and added. From there each map is enlarged and added to the next larger one, and `blocks`
    RepVGG blocks follow each sum. Conversion fuses them like those of the backbone.

    Args:
        in_index: the maps that it reads, large ones first: with RepVGG's strides, [1, 2, 3] gives logits at 1/8 of the
            image and [0, 1, 2, 3] at 1/4.
        channels: of all maps within the head.
        blocks: RepVGG blocks at each stride.
        pool_scales: cells a side of the pooled maps; () leaves the context out.
        other arguments: mmseg's BaseDecodeHead.

    Source: ours, of known parts: Lin et al., "Feature Pyramid Networks", CVPR 2017; Orsic et al., "In Defense of
    Pre-trained ImageNet Architectures", CVPR 2019 (sums in place of concatenations, for speed); Ding et al., CVPR 2021.

    Raises:
        ValueError: an argument makes no head, or `norm_cfg` is no batch norm.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        in_index: Sequence[int] = (1, 2, 3),
        blocks: int = 1,
        pool_scales: Sequence[int] = (1,),
        norm_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(in_index, int) or blocks < 1 or any(scale < 1 for scale in pool_scales):
            raise ValueError(
                'FastHead reads a list of maps, has at least one block at each stride and pools to one cell or more; '
                f'got in_index {in_index}, blocks {blocks}, pool_scales {pool_scales}'
            )
        norm_cfg = norm_cfg or {'type': 'BN'}
        super().__init__(
            list(in_channels),
            channels,
            in_index=list(in_index),
            input_transform='multiple_select',
            norm_cfg=norm_cfg,
            **kwargs,
        )
        self.pool_scales = [(scale, scale) for scale in pool_scales]
        self.laterals = nn.ModuleList(
            ConvModule(c, channels, 1, norm_cfg=norm_cfg, act_cfg=None) for c in self.in_channels
        )
        # Without a norm: the statistics of a batch of single cells are noise, and of one image there are none.
        self.context = nn.ModuleList(ConvModule(self.in_channels[-1], channels, 1) for _ in pool_scales)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(RepVGGBlock(channels, channels, norm_layer=lambda c: batch_norm(norm_cfg, c)) for _ in range(blocks))
            )
            for _ in self.in_channels
        )

    def features(self, inputs: Sequence[Tensor]) -> Tensor:  # ((N, C_i, H_i, W_i), ...) -> (N, channels, H, W)
        """Return what the classifier reads."""
        maps = self._transform_inputs(inputs)
        laterals = [conv(x) for conv, x in zip(self.laterals, maps, strict=True)]
        pooled = pool_pyramid(maps[-1], self.pool_scales)
        above = [conv(p) for conv, p in zip(self.context, pooled, strict=True)]
        out = maps[-1]
        for lateral, blocks in zip(reversed(laterals), reversed(self.blocks), strict=True):
            for x in above:
                lateral = lateral + enlarge(x, map_size(lateral), self.align_corners)
            out = blocks(lateral)
            above = [out]
        return out

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:  # ((N, C_i, H_i, W_i), ...) -> (N, num_classes, H, W)
        """Return the logits at the size of the first of its maps."""
        return self.cls_seg(self.features(inputs))
