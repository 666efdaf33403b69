"""Data sets that mmseg does not have."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..data.masks import IMAGE_SUFFIXES, find_images, read_classes
from ..files import read_text
from . import local_files as local_files  # by which mmseg's data sets find their files, too


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid with the 11 classes of the SegNet split, 480x360; mask values are class indices, void is 255.

    Source: Brostow et al., "Semantic object classes in video", PRL 2009; classes and palette as in
    Badrinarayanan et al., "SegNet", TPAMI 2017.
    """

    METAINFO = dict(  # noqa: RUF012  (mmseg's convention)
        classes=(
            'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence', 'car', 'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
            [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
        ],
    )  # fmt: skip

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)


@DATASETS.register_module()
class FolderDataset(BaseSegDataset):
    """Images and masks of your own: classes.json, a folder of images and one of masks of class indices.

    Images of any of IMAGE_SUFFIXES, also mixed; the mask of `a/b.jpg` is `a/b` with `seg_map_suffix`. `ann_file` lists
    the images of a split, one a line, where splits are not folders. classes.json: see
    repvgg_seg/data/masks.py.

    Raises:
        FileNotFoundError: classes.json, or the images, are not there.
        MaskError: classes.json is not of its form.
    """

    def __init__(
        self,
        classes_file: str = 'classes.json',
        seg_map_suffix: str = '.png',
        data_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.classes_file = Path(data_root or '', classes_file)
        self.classes = read_classes(self.classes_file)
        super().__init__(
            img_suffix='',
            seg_map_suffix=seg_map_suffix,
            data_root=data_root,
            metainfo={'classes': self.classes.names, 'palette': [list(color) for color in self.classes.colors]},
            **kwargs,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the paths of each image and its mask."""
        images, masks = Path(self.data_prefix['img_path']), self.data_prefix.get('seg_map_path')
        found = find_images(images)
        names = self._listed(found, images) if self.ann_file else list(found)
        if not names:
            where = self.ann_file or f'{images} ({", ".join(IMAGE_SUFFIXES)})'
            raise FileNotFoundError(f'there are no images in {where}: put them there, or change data_root')
        data_list = []
        for name in names:
            info = {'img_path': str(found[name]), 'label_map': None, 'reduce_zero_label': self.reduce_zero_label}
            if masks is not None:
                info['seg_map_path'] = str(Path(masks, f'{name}{self.seg_map_suffix}'))
            data_list.append({**info, 'seg_fields': []})
        return data_list

    def _listed(self, found: dict[str, Path], images: Path) -> list[str]:
        """Return the names in `ann_file`, of those that are there, each once."""
        try:
            lines = [line.strip() for line in read_text(self.ann_file).split('\n') if line.strip()]
        except FileNotFoundError:
            raise FileNotFoundError(f'the list of images {self.ann_file} does not exist: check ann_file') from None
        names = {}
        for line in lines:
            path = line if line in found else posixpath.normpath(line.replace('\\', '/'))
            names[path[: -len(Path(path).suffix)] if path.lower().endswith(IMAGE_SUFFIXES) else path] = line
        if missing := [line for name, line in names.items() if name not in found]:
            raise FileNotFoundError(
                f'{self.ann_file} lists {len(missing)} images that are not in {images}, the first is {missing[0]!r}'
            )
        return list(names)


def inner_data_sets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside wrappers that repeat, balance or join them, as configs if `dataset` is one."""
    inside = dataset if isinstance(dataset, Mapping) else vars(dataset)
    parts = inside.get('datasets') or [inside[key] for key in ('dataset', '_dataset') if inside.get(key) is not None]
    for part in parts:
        yield from inner_data_sets(part)
    if not parts:
        yield dataset


def is_labelled(dataset: Mapping[str, Any]) -> bool:
    """Whether the config of a data set, no wrapper, names a folder of masks."""
    return dataset.get('data_prefix', {'seg_map_path': ''}).get('seg_map_path') is not None


def metainfo(dataset: dict[str, Any]) -> dict[str, Any]:
    """Return what the config of a data set says of it, such as 'classes' and 'palette', without looking for its images.

    Raises:
        FileNotFoundError: it is a FolderDataset without its classes.json.
    """
    if not issubclass(DATASETS.get(dataset['type']), BaseSegDataset):
        return {}  # a wrapper of several data sets
    return DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True}).metainfo
