"""Floor 3: everything that touches mmseg, mmengine and mmcv; importing it registers our parts with them.

A config of an installed package reaches it from any directory with
`custom_imports = dict(imports=['repvgg_seg.openmmlab'])`.
"""

from . import checkpoints as checkpoints
from .backbone import RepVGG, RepVGGplus
from .datasets import CamVidDataset
from .training import AutocastOptimWrapper, ChannelsLastHook

__all__ = ['AutocastOptimWrapper', 'CamVidDataset', 'ChannelsLastHook', 'RepVGG', 'RepVGGplus']
