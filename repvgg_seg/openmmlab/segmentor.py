"""The segmentor of the shipped configs, with heads that fit and custom L2 in the loss, and the deployed form of any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..deploy.convert import convert_segmentor, switch_to_deploy
from ..deploy.insert_bn import insert_norms
from ..models.custom_l2 import custom_l2 as custom_l2_penalty
from ..models.quantized import fake_quantize
from .backbone import RepVGG


@MODELS.register_module()
class RepVGGSegmentor(EncoderDecoder):
    """mmseg's encoder-decoder, in which the heads' `in_channels` follow from the arch of the RepVGG backbone.

    So a config names the arch and nothing that depends on it. `custom_l2` is a weight decay that the loss applies to
    the blocks' kernels through the custom L2 penalty, logged as `loss_custom_l2`, in place of the optimizer's: see
    `optim.RepVGGOptimWrapperConstructor`. 0 leaves it out.

    `quantized` lets all but the auxiliary heads compute with fake quantization, their kernels of so many bits, 8 or 7:
    see `models.quantized`, and configs/_base_/quantization_aware.py. `inserted_norms` builds the deployed form of the
    blocks with a batch norm behind each: see `deploy.insert_bn`, which makes its weights.

    Raises:
        ValueError: a head reads a map that the backbone does not return, or names other channels than it has, or
            `custom_l2` is negative, or `quantized` is another number of bits.
    """

    def __init__(
        self, *args: Any, custom_l2: float = 0.0, quantized: int = 0, inserted_norms: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if custom_l2 < 0:
            raise ValueError(f'custom_l2 is a weight decay, such as 1e-4; got {custom_l2}')
        self.custom_l2 = custom_l2
        if inserted_norms:
            insert_norms(switch_to_deploy(self, inplace=True).train())
        for part in (self.backbone, getattr(self, 'neck', None), self.decode_head) if quantized else ():
            if part is not None:
                fake_quantize(part, quantized)

    def _init_decode_head(self, decode_head: ConfigDict) -> None:
        super()._init_decode_head(self._fitted(decode_head, 'decode_head'))

    def _init_auxiliary_head(self, auxiliary_head: ConfigDict | list[ConfigDict] | None) -> None:
        if isinstance(auxiliary_head, list):
            auxiliary_head = [self._fitted(head, 'auxiliary_head') for head in auxiliary_head]
        elif auxiliary_head is not None:
            auxiliary_head = self._fitted(auxiliary_head, 'auxiliary_head')
        super()._init_auxiliary_head(auxiliary_head)

    def _fitted(self, head: ConfigDict, name: str) -> ConfigDict:
        """Return the config of a head with the channels of the maps that it reads."""
        if self.with_neck or not isinstance(self.backbone, RepVGG):
            return head
        maps, index = self.backbone.out_channels, head.get('in_index', -1)
        try:
            channels = [maps[i] for i in index] if isinstance(index, Sequence) else maps[index]
        except IndexError:
            raise ValueError(f'{name} reads in_index {index}, but the backbone returns {len(maps)} maps') from None
        given = head.get('in_channels', channels)
        if (list(given) if isinstance(given, tuple) else given) != channels:
            raise ValueError(
                f'{name} has in_channels {given}, but {self.backbone.variant.name} has {channels} there: '
                'leave in_channels out'
            )
        head = head.copy()
        head['in_channels'] = channels
        return head

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """Return the heads' losses for images (N, 3, H, W) and, if wanted, the custom L2 penalty."""
        losses = super().loss(inputs, data_samples)
        if self.custom_l2:
            losses['loss_custom_l2'] = self.custom_l2 / 2 * custom_l2_penalty(self)
        return losses


@MODELS.register_module(name='DeployedSegmentor')
def deployed_segmentor(segmentor: str, **config: Any) -> nn.Module:
    """Build the segmentor of type `segmentor` from its train-time config, and convert it before it gets any weights.

    What a deployed config builds is made by the converter itself, so the two cannot disagree, wherever the RepVGG
    blocks are: backbone, neck or decode head.

    Raises:
        ValueError: it contains no RepVGG block.
    """
    return convert_segmentor(MODELS.build(ConfigDict(type=segmentor, **config)), inplace=True)
