"""The table of published RepVGG and RepVGGplus variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SEPosition = Literal['pre', 'post']

# Output channels of the four stages before the width multipliers.
BASE_CHANNELS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Variant:
    """One row of the RepVGG family: depth, width and extras of a trunk.

    Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, tables 2 and 3;
    D2se and RepVGGplus from the authors' repository (github.com/DingXiaoH/RepVGG).
    """

    name: str
    blocks: tuple[int, int, int, int]  # blocks in stages 1 to 4
    widths: tuple[float, float, float, float]  # multipliers of BASE_CHANNELS
    groups: int = 1  # groups of every second 3x3 convolution after the stem
    se: SEPosition | None = None  # squeeze-and-excitation before ('pre') or after ('post') the ReLU
    aux_classifiers: bool = False  # three auxiliary ImageNet classifiers while training

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        """Output channels of the stem and of the four stages."""
        one, two, three, four = (int(base * width) for base, width in zip(BASE_CHANNELS, self.widths, strict=True))
        return min(64, one), one, two, three, four

    @property
    def se_ratio(self) -> int:
        """How many times fewer channels the squeezed layer has (used where `se` is set)."""
        return 4 if self.se == 'post' else 16

    def groups_of(self, layer: int) -> int:
        """Groups of the block that is number `layer` after the stem, counted from 1 over all stages."""
        return self.groups if layer % 2 == 0 else 1


_A, _B, _D = (2, 4, 14, 1), (4, 6, 16, 1), (8, 14, 24, 1)
_W1, _W2, _W3 = (2, 2, 2, 4), (2.5, 2.5, 2.5, 5), (3, 3, 3, 5)

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant('RepVGG-A0', _A, (0.75, 0.75, 0.75, 2.5)),
            Variant('RepVGG-A1', _A, (1, 1, 1, 2.5)),
            Variant('RepVGG-A2', _A, (1.5, 1.5, 1.5, 2.75)),
            Variant('RepVGG-B0', _B, (1, 1, 1, 2.5)),
            Variant('RepVGG-B1', _B, _W1),
            Variant('RepVGG-B1g2', _B, _W1, groups=2),
            Variant('RepVGG-B1g4', _B, _W1, groups=4),
            Variant('RepVGG-B2', _B, _W2),
            Variant('RepVGG-B2g2', _B, _W2, groups=2),
            Variant('RepVGG-B2g4', _B, _W2, groups=4),
            Variant('RepVGG-B3', _B, _W3),
            Variant('RepVGG-B3g2', _B, _W3, groups=2),
            Variant('RepVGG-B3g4', _B, _W3, groups=4),
            Variant('RepVGG-D2se', _D, _W2, se='pre'),
            Variant('RepVGGplus-L2pse', _D, _W2, se='post', aux_classifiers=True),
        )
    }
)


def get_variant(arch: str | Variant) -> Variant:
    """Return the row of the table that `arch` names; a Variant of your own is passed through.

    Raises:
        ValueError: no variant has this name.
    """
    if isinstance(arch, Variant):
        return arch
    if arch not in VARIANTS:
        raise ValueError(f'unknown arch {arch!r}: use the full official name, one of {", ".join(VARIANTS)}')
    return VARIANTS[arch]
