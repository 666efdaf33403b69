"""The data set of pretraining and the order in which it is read, both determined by a few numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from ..randomness import Key, mixed, seeded
from .sources import open_source
from .transforms import decode, test_transform, train_transform


class ImageNet(Dataset[dict[str, Any]]):
    """Images of `split` as `inputs`, uint8 (3, resolution, resolution), their classes as `labels`, and the `name`.

    Indexed by a number, or by a Key of GlobalBatchSampler, which determines the augmentation too.

    Raises:
        FileNotFoundError: there is no data in `data_root`.
        ValueError: a file of the data is damaged, or `augmentation` is unknown.
    """

    def __init__(self, data_root: str | Path, split: str, *, resolution: int = 224, augmentation: str = 'none') -> None:
        self.transform = train_transform(resolution, augmentation) if split == 'train' else test_transform(resolution)
        self.source = open_source(data_root, split)
        self.metainfo = {'classes': self.source.classes}

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, key: int | Key) -> dict[str, Any]:
        index, seed = (key, 0) if isinstance(key, int) else key
        image = decode(self.source.read(index), self.source.name(index))
        with seeded(seed):
            image = self.transform(image)
        return {'inputs': image, 'labels': int(self.source.labels[index]), 'name': self.source.name(index)}


class GlobalBatchSampler(Sampler[Key]):
    """One process's share of `epoch` in random order, which begins with its sample number `first`.

    The epoch is cut into global batches of `batch_size * world_size` images, the last images that fill none are left
    out, and each process gets `batch_size` consecutive ones of every batch. So the global batches don't depend on the
    number of processes, and neither do the seeds that go with the images: mixed from `seed`, `epoch` and index.

    Raises:
        ValueError: there are fewer images than a global batch.
    """

    def __init__(self, images: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.batches, self.images = images // (batch_size * world_size), images
        if not self.batches:
            raise ValueError(
                f'there are {images} training images, fewer than one batch of {batch_size * world_size}: '
                'choose less with --cfg-options train_dataloader.batch_size=N'
            )
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[Key]:
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(mixed(self.seed, self.epoch)))
        usable = order[: len(self) * self.world_size]
        for index in usable.reshape(self.batches, self.world_size, -1)[:, self.rank].flatten()[self.first :]:
            yield int(index), mixed(self.seed, self.epoch, int(index))
