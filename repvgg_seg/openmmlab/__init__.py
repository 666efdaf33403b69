"""What is registered with mmseg and mmengine; importing this package registers it.

A config of an installed package reaches it from any directory with
`custom_imports = dict(imports=['repvgg_seg.openmmlab'])`.
"""

# ruff: noqa: E402  (mmseg is quietened before it is imported)

import contextlib
import io
import os
import warnings

# mmseg warns of things that do not concern our users: mmcv has no compiled operators (our networks need none), a
# default has not changed, two classes could use a sigmoid, and (on stdout) an optional commercial package is missing.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
warnings.filterwarnings('ignore', message='For binary segmentation, we suggest')
warnings.filterwarnings('ignore', message='Default ``avg_non_ignore`` is False')
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')  # else it asks a server for updates at every import
with contextlib.redirect_stdout(io.StringIO()):
    import mmseg.datasets  # noqa: F401

from . import checkpoints as checkpoints
from .backbone import RepVGG, RepVGGplus
from .class_balance import RepeatRareClasses
from .datasets import CamVidDataset, FolderDataset
from .fast_head import FastHead
from .heads import FoldedPSPHead, FoldedUPerHead, fold_heads
from .image_cache import LoadCachedAnnotations, LoadCachedImage
from .imagenet import PretrainingModel
from .losses import SoftmaxFocalLoss
from .optim import AutocastOptimWrapper, RepVGGOptimWrapperConstructor
from .runner import ChannelsLastHook
from .segmentor import RepVGGSegmentor, deployed_segmentor
from .transforms import AlbuPhotoMetricDistortion, ResizeAndCrop, SeededAlbu
from .watching import CSVVisBackend, ValidationPicturesHook

__all__ = [
    'AlbuPhotoMetricDistortion',
    'AutocastOptimWrapper',
    'CSVVisBackend',
    'CamVidDataset',
    'ChannelsLastHook',
    'FastHead',
    'FoldedPSPHead',
    'FoldedUPerHead',
    'FolderDataset',
    'LoadCachedAnnotations',
    'LoadCachedImage',
    'PretrainingModel',
    'RepVGG',
    'RepVGGOptimWrapperConstructor',
    'RepVGGSegmentor',
    'RepVGGplus',
    'RepeatRareClasses',
    'ResizeAndCrop',
    'SeededAlbu',
    'SoftmaxFocalLoss',
    'ValidationPicturesHook',
    'deployed_segmentor',
    'fold_heads',
]
