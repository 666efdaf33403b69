"""Floor 3: everything that touches mmseg, mmengine and mmcv; importing it registers our parts with them.

A config of an installed package reaches it from any directory with
`custom_imports = dict(imports=['repvgg_seg.openmmlab'])`.
"""

# ruff: noqa: E402  (mmseg is quietened before it is imported)

import contextlib
import io
import warnings

# What mmseg says whenever it is imported is of no use here: that mmcv has no compiled operators, which our networks
# don't need, that a default stays what it was and, on stdout, that an optional commercial package is missing.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
warnings.filterwarnings('ignore', message='Default ``avg_non_ignore`` is False')
with contextlib.redirect_stdout(io.StringIO()):
    import mmseg.datasets  # noqa: F401

from . import checkpoints as checkpoints
from .backbone import RepVGG, RepVGGplus
from .datasets import CamVidDataset
from .training import AutocastOptimWrapper, ChannelsLastHook

__all__ = ['AutocastOptimWrapper', 'CamVidDataset', 'ChannelsLastHook', 'RepVGG', 'RepVGGplus']
