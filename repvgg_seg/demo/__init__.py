"""A procedural street data set in Cityscapes' layout, for trying everything without a download."""

from repvgg_seg.demo.dataset import DemoDatasetError, demo_sample, write_demo_dataset
from repvgg_seg.demo.scene import FEATURES, LABELS, TRAIN_IDS, draw_scene

__all__ = [
    'FEATURES',
    'LABELS',
    'TRAIN_IDS',
    'DemoDatasetError',
    'demo_sample',
    'draw_scene',
    'write_demo_dataset',
]
