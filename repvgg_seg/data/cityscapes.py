"""Cityscapes' label table: the ids of its annotations, and what is trained of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

VOID = 255  # the train id of what is neither trained nor counted


class Label(NamedTuple):
    """One row of Cityscapes' label table."""

    id: int
    name: str
    train_id: int


# Source: Cityscapes' label definitions, without "license plate", whose id -1 no PNG can hold.
LABELS = tuple(
    Label(*row)
    for row in (
        (0, 'unlabeled', VOID), (1, 'ego vehicle', VOID), (2, 'rectification border', VOID),
        (3, 'out of roi', VOID), (4, 'static', VOID), (5, 'dynamic', VOID), (6, 'ground', VOID),
        (7, 'road', 0), (8, 'sidewalk', 1), (9, 'parking', VOID), (10, 'rail track', VOID),
        (11, 'building', 2), (12, 'wall', 3), (13, 'fence', 4), (14, 'guard rail', VOID),
        (15, 'bridge', VOID), (16, 'tunnel', VOID), (17, 'pole', 5), (18, 'polegroup', VOID),
        (19, 'traffic light', 6), (20, 'traffic sign', 7), (21, 'vegetation', 8), (22, 'terrain', 9),
        (23, 'sky', 10), (24, 'person', 11), (25, 'rider', 12), (26, 'car', 13), (27, 'truck', 14),
        (28, 'bus', 15), (29, 'caravan', VOID), (30, 'trailer', VOID), (31, 'train', 16),
        (32, 'motorcycle', 17), (33, 'bicycle', 18),
    )
)  # fmt: skip
TRAIN_IDS = np.full(256, VOID, np.uint8)  # label id -> train id
for _label in LABELS:
    TRAIN_IDS[_label.id] = _label.train_id
