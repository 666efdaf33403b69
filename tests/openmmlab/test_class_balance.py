"""Images of rare classes come more often, and losses for rare classes train."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from repvgg_seg.openmmlab.datasets import inner_data_sets

register_all_modules()


def test_images_of_rare_classes_are_repeated(tmp_path) -> None:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'masks').mkdir()
    names = [{'name': name, 'color': [0, 0, i]} for i, name in enumerate(('road', 'car', 'train'))]
    (tmp_path / 'classes.json').write_text(json.dumps({'classes': names}))
    for number in range(10):
        mask = np.zeros((8, 8), np.uint8)
        mask[0, 0] = 2 if number == 3 else 1 if number % 2 else 0
        mask[7] = 255 if number == 4 else 0  # which is not a rare class
        cv2.imwrite(str(tmp_path / f'images/{number}.png'), np.zeros((8, 8, 3), np.uint8))
        cv2.imwrite(str(tmp_path / f'masks/{number}.png'), mask)
    folder = dict(
        type='FolderDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    dataset = DATASETS.build(dict(type='RepeatRareClasses', dataset=folder, oversample_thr=0.9))
    shown = [dataset[index]['img_path'] for index in range(len(dataset))]
    # Classes are in 10, 4 and 1 of 10 images: sqrt(0.9 / 0.1) is 3, and sqrt(0.9 / 0.4) is 1.5, rounded up.
    times = [sum(path.endswith(f'{number}.png') for path in shown) for number in range(10)]
    assert times == [1, 2, 1, 3, 1, 2, 1, 2, 1, 2]
    assert dataset.metainfo['classes'] == ('road', 'car', 'train')
    [inner] = inner_data_sets(dataset)
    assert 'get_cat_ids' not in vars(inner)


@pytest.mark.parametrize('name', ['ohem', 'dice', 'lovasz', 'focal'])
def test_a_fragment_of_losses_trains_any_head(name: str, repo, tmp_path) -> None:
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = ['{repo}/configs/fastseg_repvgg_a0_camvid.py', '{repo}/configs/_base_/losses/{name}.py']\n"
        f'model = _base_.{name}\n'
    )
    head = Config.fromfile(path).model.decode_head
    head.update(in_channels=(4, 6, 8), channels=8)
    head = MODELS.build(head)
    maps = [None, *(torch.randn(2, c, 16 // s, 16 // s) for c, s in ((4, 1), (6, 2), (8, 4)))]
    truth = torch.randint(0, 11, (1, 32, 32))
    truth[:, :4] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=truth), metainfo={'img_shape': (32, 32)}) for _ in range(2)]
    losses = head.loss(maps, samples, {})
    total = sum(loss for key, loss in losses.items() if 'loss' in key)
    total.backward()
    assert torch.isfinite(total) and total > 0 and head.conv_seg.weight.grad.abs().sum() > 0
    assert len([key for key in losses if 'loss' in key]) == (2 if name in ('dice', 'lovasz') else 1)


def test_the_focal_loss_is_cross_entropy_that_well_classified_pixels_leave() -> None:
    score, target = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randint(0, 3, (2, 4, 4))
    target[0, 0] = 255
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    plain = MODELS.build(dict(type='SoftmaxFocalLoss', gamma=0, class_weight=weights.tolist()))
    expected = torch.nn.functional.cross_entropy(score, target, weights, ignore_index=255, reduction='none').mean()
    assert torch.allclose(plain(score, target), expected, rtol=1e-12)
    probability = score.softmax(1).gather(1, target.where(target != 255, 0)[:, None])[:, 0]
    focal = -((1 - probability) ** 2) * probability.log() * (target != 255)
    assert torch.allclose(MODELS.build(dict(type='SoftmaxFocalLoss'))(score, target), focal.mean(), rtol=1e-12)
