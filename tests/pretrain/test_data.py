import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repvgg_seg.pretrain.data import GlobalBatchSampler, ImageNet
from repvgg_seg.randomness import mixed, seeded


def test_images_and_augmentation_are_functions_of_the_key(folders, tars) -> None:
    data, same = (ImageNet(folders, 'train', resolution=32, augmentation='raug15') for _ in range(2))
    torch.manual_seed(1)
    first = data[5, 11]['inputs']
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(same[5, 11]['inputs'], first) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(data[5, 12]['inputs'], first)
    assert data[5, 11]['labels'] == 0 and data.metainfo['classes'][2].startswith('n03')
    assert len(ImageNet(tars, 'val', resolution=32)) == 12


def test_a_damaged_image_is_named_with_its_file(folders, tars) -> None:
    data = ImageNet(tars, 'train', resolution=32)
    data.source.sizes = data.source.sizes // 2
    with pytest.raises(ValueError, match=r'ILSVRC2012_img_train\.tar: n\d+/n\d+_\d+\.JPEG cannot be decoded'):
        data[0]


@given(
    batch=st.integers(1, 4), processes=st.integers(1, 3), batches=st.integers(1, 4), surplus=st.integers(0, 2),
    epoch=st.integers(0, 3),
)  # fmt: skip
def test_an_epoch_is_the_same_however_many_processes_share_it(batch, processes, batches, surplus, epoch) -> None:
    total = batch * processes
    images = total * batches + min(surplus, total - 1)

    def share(rank: int, world_size: int, size: int, first: int = 0) -> list:
        sampler = GlobalBatchSampler(images, size, seed=3, rank=rank, world_size=world_size)
        sampler.epoch, sampler.first = epoch, first * size
        assert len(sampler) == batches * size
        return list(sampler)

    alone = share(0, 1, total)
    assert len({index for index, _ in alone}) == len(alone) == total * batches
    shares = [share(rank, processes, batch) for rank in range(processes)]
    together = [key for b in range(batches) for keys in shares for key in keys[b * batch : (b + 1) * batch]]
    assert together == alone
    for first in range(batches):
        assert share(0, 1, total, first) == alone[first * total :]


def test_epochs_and_seeds_differ() -> None:
    sampler = GlobalBatchSampler(50, 10, seed=0)
    epochs = []
    for sampler.epoch in range(2):
        epochs.append(list(sampler))
    sampler.seed = 1
    assert epochs[0] != epochs[1] != list(sampler)
    seeds = {index: seed for index, seed in epochs[0]}
    assert all(seeds[index] != seed for index, seed in epochs[1])
    assert mixed(0, 1) != mixed(1, 0) and 0 <= mixed(2, 3) < 2**63


def test_fewer_images_than_a_batch() -> None:
    with pytest.raises(ValueError, match=r'there are 7 training images, fewer than one batch of 8: .*batch_size=N'):
        GlobalBatchSampler(7, 4, seed=0, world_size=2)


def test_seeded_leaves_no_trace() -> None:
    def draw() -> list[float]:
        return [torch.rand(1).item(), np.random.random_sample(), random.random()]

    def seed() -> None:
        for function in (torch.manual_seed, np.random.seed, random.seed):
            function(5)

    seed()
    expected = draw()
    seed()
    with seeded(1):
        inside = draw()
    assert draw() == expected
    with seeded(1):
        assert draw() == inside and not set(inside) & set(expected)
