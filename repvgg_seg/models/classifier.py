"""The ImageNet classifier: the trunk, a linear layer and, for RepVGGplus, three auxiliary classifiers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from .block import NormLayer
from .trunk import Dilation, RepVGG
from .variants import Variant


class AuxClassifier(nn.Sequential):
    """conv3x3 of stride 2, batch norm, ReLU, global pooling, linear: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int, norm_layer: NormLayer) -> None:
        downsample = nn.Sequential()
        downsample.add_module('conv', nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False))
        downsample.add_module('bn', norm_layer(channels))
        downsample.add_module('relu', nn.ReLU())
        super().__init__(downsample, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class RepVGGClassifier(RepVGG):
    """RepVGG with global average pooling and a linear layer: (N, in_channels, H, W) -> (N, num_classes).

    Takes the trunk's arguments but for `out_indices`. Deployed, it has no auxiliary classifiers.
    """

    def __init__(
        self,
        arch: str | Variant,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[Dilation] = (1, 1, 1, 1),
        deploy: bool = False,
        norm_layer: NormLayer = nn.BatchNorm2d,
        with_cp: bool = False,
    ) -> None:
        super().__init__(
            arch,
            in_channels=in_channels,
            out_indices=(3,),
            strides=strides,
            dilations=dilations,
            deploy=deploy,
            norm_layer=norm_layer,
            with_cp=with_cp,
        )
        _, stage1, stage2, stage3, stage4 = self.variant.channels
        self.linear = nn.Linear(stage4, num_classes)
        if self.variant.aux_classifiers and not deploy:
            self.stage1_aux = AuxClassifier(stage1, num_classes, norm_layer)
            self.stage2_aux = AuxClassifier(stage2, num_classes, norm_layer)
            self.stage3_first_aux = AuxClassifier(stage3, num_classes, norm_layer)

    def _classify(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, num_classes)
        return self.linear(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # (N, C, H, W) -> (N, num_classes)
        return self._classify(super().forward(x)[-1])

    def forward_aux(self, x: Tensor) -> dict[str, Tensor]:
        """Return the logits (N, num_classes) of the main classifier and of those auxiliary ones that it has.

        Keys: 'main' and, for a train-time RepVGGplus, 'stage1_aux', 'stage2_aux', 'stage3_first_aux'.
        """
        half = len(self.stages[2]) // 2
        sections: dict[str, Iterable[nn.Module]] = {
            'stage1_aux': [self.stage0, *self.stages[0]],
            'stage2_aux': self.stages[1],
            'stage3_first_aux': self.stages[2][:half],
            'main': [*self.stages[2][half:], *self.stages[3]],
        }
        logits = {}
        for name, blocks in sections.items():
            x = self._run(blocks, x)
            if name == 'main':
                logits[name] = self._classify(x)
            elif name in self._modules:
                logits[name] = getattr(self, name)(x)
        return logits

    def switch_to_deploy(self) -> None:
        """Drop the auxiliary classifiers; the blocks fuse themselves."""
        for name in [name for name, child in self.named_children() if isinstance(child, AuxClassifier)]:
            delattr(self, name)
