"""Images with rare classes are seen more often."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
from mmengine.dataset import ClassBalancedDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from ..parallel import parallel_map


@DATASETS.register_module()
class RepeatRareClasses(ClassBalancedDataset):
    """Any segmentation data set, in which images of rare classes occur several times: repeat-factor sampling.

    mmengine's ClassBalancedDataset, for data sets of masks. All masks are read once, when the data set is built. An
    image occurs `max over its classes of sqrt(oversample_thr / share of the images with the class)` times, at least 1.

    Args:
        dataset: the data set, or its config.
        oversample_thr: share of the images below which a class is rare.

    Source: Gupta et al., "LVIS", CVPR 2019.
    """

    def _get_repeat_factors(self, dataset: Any, repeat_thr: float) -> list[float]:
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        read = partial(_classes, dataset.ignore_index)
        classes = list(parallel_map(read, infos, description='looking for rare classes'))
        dataset.get_cat_ids = classes.__getitem__
        try:
            return super()._get_repeat_factors(dataset, repeat_thr)
        finally:
            del dataset.get_cat_ids


@cache
def _loader() -> LoadAnnotations:
    return LoadAnnotations()


def _classes(ignore_index: int, info: dict[str, Any]) -> list[int]:
    """Return the classes in a mask as the training would see them."""
    mask = _loader().transform({**info, 'seg_fields': []})['gt_seg_map']
    return [label for label in np.unique(mask).tolist() if label != ignore_index]
