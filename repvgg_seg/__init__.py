"""Semantic segmentation with structurally re-parameterized networks (RepVGG and RepVGGplus)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

# Public name -> the module that defines it. Resolved on first touch, so that `import repvgg_seg` costs nothing:
# an application that runs an exported model needs neither torch nor OpenMMLab.
_HOMES = {
    'VARIANTS': 'models.variants',
    'Variant': 'models.variants',
    'RepVGGBlock': 'models.block',
    'RepVGG': 'models.trunk',
    'RepVGGClassifier': 'models.classifier',
    'custom_l2': 'models.custom_l2',
    'switch_to_deploy': 'deploy.convert',
    'load_weights': 'weights.pretrained',
    'Segmenter': 'runtime.segmenter',
}

__all__ = [
    'VARIANTS',
    'RepVGG',
    'RepVGGBlock',
    'RepVGGClassifier',
    'Segmenter',
    'Variant',
    'custom_l2',
    'load_weights',
    'switch_to_deploy',
]

if TYPE_CHECKING:
    from .deploy.convert import switch_to_deploy
    from .models.block import RepVGGBlock
    from .models.classifier import RepVGGClassifier
    from .models.custom_l2 import custom_l2
    from .models.trunk import RepVGG
    from .models.variants import VARIANTS, Variant
    from .runtime.segmenter import Segmenter
    from .weights.pretrained import load_weights


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
