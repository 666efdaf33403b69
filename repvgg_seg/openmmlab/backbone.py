"""RepVGG and RepVGGplus as mmseg backbones: the trunk, without classifier and auxiliary classifiers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import trunk
from ..models.trunk import Block, Dilation
from ..models.variants import Variant
from ..weights.pretrained import SCHEME, load_weights


@MODELS.register_module()
class RepVGG(trunk.RepVGG, BaseModule):
    """The RepVGG trunk as an mmseg backbone: (N, in_channels, H, W) -> tuple of (N, C_i, H_i, W_i).

    Args:
        arch: full official name, a key of VARIANTS.
        in_channels: channels of the input image.
        out_indices: stages whose maps are returned; later stages are not built.
        strides: stride of each stage's first block.
        dilations: for each stage one dilation, or one per block.
        frozen_stages: the stem and this many stages do not train; -1 trains everything.
        norm_cfg: any norm that is a batch norm ('BN', 'SyncBN', ...).
        norm_eval: keep all batch norms in eval mode while training.
        with_cp: recompute activations in the backward pass to save memory.
        deploy: build the deployed form, plain 3x3 convolutions.
        block: 'repvgg', or 'qarepvgg', which keeps its accuracy in int8.
        init_cfg: `dict(type='Pretrained', checkpoint=PATH_URL_OR_NAME)` loads strictly: what does not fit is an error.
            The bare name 'repvgg://' means the released weights of `arch`.

    Raises:
        ValueError: an argument that does not fit the architecture, or an `init_cfg` that would be ignored.
    """

    def __init__(
        self,
        arch: str | Variant,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[Dilation] = (1, 1, 1, 1),
        frozen_stages: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        block: Block = 'repvgg',
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        norm_cfg = norm_cfg or {'type': 'BN'}
        super().__init__(
            arch,
            in_channels=in_channels,
            out_indices=out_indices,
            strides=strides,
            dilations=dilations,
            deploy=deploy,
            norm_layer=lambda channels: batch_norm(norm_cfg, channels),
            with_cp=with_cp,
            block=block,
        )
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= len(self.stages):
            raise ValueError(f'frozen_stages must be -1 to {len(self.stages)} for this backbone; got {frozen_stages}')
        self.init_cfg = copy.deepcopy(init_cfg)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def init_weights(self) -> None:
        """Initialise as `init_cfg` says; pretrained weights must fit key by key, unlike with mmengine's own loader."""
        configured, sources = self.init_cfg, self.pretrained
        self.init_cfg = [cfg for cfg in self._init_cfgs() if cfg['type'] != 'Pretrained']
        try:
            super().init_weights()
        finally:
            self.init_cfg = configured
        for source in sources:
            load_weights(self, source)

    @property
    def pretrained(self) -> list[str]:
        """The paths, URLs and names of the weights that `init_cfg` loads.

        Raises:
            ValueError: `init_cfg` has an option that would be ignored.
        """
        cfgs = [cfg for cfg in self._init_cfgs() if cfg['type'] == 'Pretrained']
        for cfg in cfgs:
            if unknown := set(cfg) - {'type', 'checkpoint'}:
                raise ValueError(
                    f"init_cfg of type 'Pretrained' takes only a checkpoint here; remove {sorted(unknown)}"
                )
        # Released weights are named after the arch, so that the bare scheme is all that a config needs.
        return [SCHEME + self.variant.name if cfg['checkpoint'] == SCHEME else cfg['checkpoint'] for cfg in cfgs]

    def _init_cfgs(self) -> list[dict[str, Any]]:
        return [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or [])

    def train(self, mode: bool = True) -> RepVGG:
        """Set training mode, but for frozen stages and, with `norm_eval`, for batch norms."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        return [self.stage0, *self.stages[: self.frozen_stages]] if self.frozen_stages >= 0 else []


def batch_norm(norm_cfg: dict[str, Any], channels: int) -> nn.Module:
    """Return the batch norm of `norm_cfg` for maps of `channels` channels.

    Raises:
        ValueError: `norm_cfg` is another norm, which cannot be fused into a convolution.
    """
    norm = MODELS.get(norm_cfg.get('type', ''))
    if not (isinstance(norm, type) and issubclass(norm, _BatchNorm)):
        raise ValueError(
            f"norm_cfg {norm_cfg} is not a batch norm, and no other can be folded: use type='BN' or 'SyncBN'"
        )
    return build_norm_layer(norm_cfg, channels)[1]


@MODELS.register_module()
class RepVGGplus(RepVGG):
    """RepVGGplus as an mmseg backbone: its auxiliary classifiers exist for ImageNet only and are never built here."""

    def __init__(self, arch: str | Variant = 'RepVGGplus-L2pse', **kwargs: Any) -> None:
        super().__init__(arch, **kwargs)
        if self.variant.se != 'post':
            raise ValueError(f"{self.variant.name} is not a RepVGGplus: build it with type='RepVGG'")
