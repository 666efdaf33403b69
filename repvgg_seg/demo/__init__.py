"""A procedural street data set in Cityscapes' layout, for trying everything without a download."""

from ..data.cityscapes import LABELS, TRAIN_IDS
from .dataset import DemoDatasetError, demo_sample, write_demo_dataset
from .scene import FEATURES, draw_scene

__all__ = [
    'FEATURES',
    'LABELS',
    'TRAIN_IDS',
    'DemoDatasetError',
    'demo_sample',
    'draw_scene',
    'write_demo_dataset',
]
