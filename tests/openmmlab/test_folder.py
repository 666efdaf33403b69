"""Images of one's own: the data set of a folder, and what can be wrong with it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import DATASETS, MODELS
from mmseg.utils import register_all_modules
from PIL import Image

from repvgg_seg.openmmlab.datasets import metainfo
from repvgg_seg.workflows.config import load_config
from repvgg_seg.workflows.splits import check_quickly
from tests.conftest import tool

register_all_modules()

BINARY = {
    'classes': [{'name': 'background', 'color': [0, 0, 0]}, {'name': 'crack', 'color': [255, 255, 255]}],
}
SUFFIXES = ('.jpg', '.png', '.JPEG', '.bmp')

TINY_FOLDER = """
_base_ = ['{repo}/configs/pspnet_repvgg_a0_folder.py']
crop_size = (64, 64)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
one = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(data_root='{data}', pipeline=train_pipeline), **one)
val_dataloader = dict(dataset=dict(data_root='{data}', pipeline=test_pipeline), **one)
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(init_cfg=None, out_indices=(0, 1)),
    decode_head=dict(channels=8, in_index=1),
    auxiliary_head=dict(channels=8, in_index=0),
)
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Four training and two validation images of mixed formats, with masks of the indices 0 and 1."""
    root = tmp_path_factory.mktemp('mine')
    rng = np.random.default_rng(0)
    (root / 'classes.json').write_text(json.dumps(BINARY))
    for split, number in (('train', 4), ('val', 2)):
        for i in range(number):
            for kind in ('images', 'masks'):
                (root / kind / split / 'day').mkdir(parents=True, exist_ok=True)
            mask = np.zeros((64, 80), np.uint8)
            mask[10 + i : 40, 20:60] = 1
            image = (rng.integers(0, 80, (64, 80, 3)) + 120 * mask[..., None]).astype(np.uint8)
            Image.fromarray(image).save(root / 'images' / split / f'day/{i}{SUFFIXES[i]}')
            Image.fromarray(mask).save(root / 'masks' / split / f'day/{i}.png')
    return root


@pytest.fixture
def mine(folder, tmp_path):
    """A copy of `folder` to be broken."""
    return shutil.copytree(folder, tmp_path / 'mine')


def build(root, **kwargs):
    prefix = {'img_path': 'images/train', 'seg_map_path': 'masks/train'}
    return DATASETS.build({'type': 'FolderDataset', 'data_root': str(root), 'data_prefix': prefix, **kwargs})


def config(repo, data, path) -> str:
    path.write_text(TINY_FOLDER.format(repo=repo, data=data))
    return str(path)


def test_images_of_mixed_formats_find_their_masks(folder) -> None:
    data = build(folder)
    names = [data.get_data_info(i)['img_path'].rsplit('/', 1)[1] for i in range(len(data))]
    assert names == ['0.jpg', '1.png', '2.JPEG', '3.bmp']
    assert all(data.get_data_info(i)['seg_map_path'].endswith(f'masks/train/day/{i}.png') for i in range(4))
    assert data.metainfo['classes'] == ('background', 'crack') and data.metainfo['palette'][1] == [255, 255, 255]
    assert not data.metainfo['reduce_zero_label']


def test_a_list_chooses_the_images_of_a_split(folder, tmp_path) -> None:
    (tmp_path / 'list.txt').write_text('train/day/2.JPEG\n\nval/day/0\n')
    prefix = {'img_path': 'images', 'seg_map_path': 'masks'}
    data = build(folder, ann_file=str(tmp_path / 'list.txt'), data_prefix=prefix)
    assert [data.get_data_info(i)['seg_map_path'][-19:] for i in range(2)] == [
        'masks/train/day/2.png'[-19:],
        'masks/val/day/0.png'[-19:],
    ]
    (tmp_path / 'list.txt').write_text('train/day/2\ngone.jpg\n')
    with pytest.raises(FileNotFoundError, match=r"lists 1 images that are not in \S*images, the first is 'gone\.jpg'"):
        build(folder, ann_file=str(tmp_path / 'list.txt'), data_prefix=prefix)
    with pytest.raises(FileNotFoundError, match=r'the list of images \S*gone\.txt does not exist: check ann_file'):
        build(folder, ann_file=str(tmp_path / 'gone.txt'), data_prefix=prefix)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_lists_and_json_may_come_from_any_editor(mine, encoding: str) -> None:
    (mine / 'classes.json').write_text(json.dumps(BINARY), encoding=encoding)
    lines = ['./train/day/2.JPEG', 'train\\day\\2.JPEG', '', 'val/day/0', 'val//day/0.jpg']
    (mine / 'list.txt').write_bytes('\r\n'.join(lines).encode(encoding))
    data = build(mine, ann_file='list.txt', data_prefix={'img_path': 'images', 'seg_map_path': 'masks'})
    assert [data.get_data_info(i)['img_path'].split('images/')[1] for i in range(len(data))] == [
        'train/day/2.JPEG', 'val/day/0.jpg',
    ]  # fmt: skip


def test_linked_folders_hold_samples_too(folder, tmp_path) -> None:
    (tmp_path / 'classes.json').write_text(json.dumps(BINARY))
    for kind in ('images', 'masks'):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / 'train').symlink_to(folder / kind)
    data = build(tmp_path)
    assert len(data) == 6 and 'masks/train/val/day/1.png' in data.get_data_info(5)['seg_map_path']


def test_two_classes_train_with_softmax_convert_and_are_evaluated(repo, folder, tmp_path, capsys) -> None:
    path = config(repo, folder, tmp_path / 'mine.py')
    assert tool('train')([path, '--work-dir', str(tmp_path / 'work')]) == 0
    assert tool('convert_deploy')([path, str(tmp_path / 'work'), str(tmp_path / 'deploy')]) == 0
    assert MODELS.build(Config.fromfile(tmp_path / 'deploy/deploy.py').model).decode_head.out_channels == 2
    argv = [path, str(tmp_path / 'work'), '--deploy', '--show-dir', str(tmp_path / 'overlays')]
    assert tool('test')([*argv, '--work-dir', str(tmp_path / 'test')]) == 0
    table = capsys.readouterr().out
    assert re.search(r'mIoU +([\d.]+) +\1 +\+0.00', table)
    log = next((tmp_path / 'test').rglob('*.log')).read_text()
    assert re.search(r'\| background \|', log) and re.search(r'\| +crack +\|', log)
    assert len(list((tmp_path / 'overlays').glob('day/*.png'))) == 2


def test_a_checkpoint_without_classes_takes_those_of_the_folder(folder) -> None:
    dataset = {'type': 'FolderDataset', 'data_root': str(folder), 'data_prefix': {'img_path': 'x', 'seg_map_path': 'y'}}
    assert metainfo(dataset)['classes'] == ('background', 'crack')
    assert metainfo({'type': 'CityscapesDataset', 'data_root': '/nowhere'})['classes'][0] == 'road'
    assert metainfo({'type': 'ConcatDataset', 'datasets': [dataset]}) == {}


def test_the_heads_have_an_output_for_each_class_of_classes_json(repo, mine, tmp_path, capsys) -> None:
    classes = {'classes': [*BINARY['classes'], {'name': 'joint', 'color': [255, 0, 0]}]}
    (mine / 'classes.json').write_text(json.dumps(classes))
    path = config(repo, mine, tmp_path / 'mine.py')
    cfg = load_config(path)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 3
    check_quickly(cfg)
    wrong = ['--cfg-options', 'model.decode_head.num_classes=2']
    expected = (
        '{}: the data set names 3 classes, and decode_head has outputs for 2: set model.decode_head.num_classes=3'
    )
    assert tool('train')([path, '--work-dir', str(tmp_path / 'work'), *wrong]) == 2
    assert expected.format('train') in capsys.readouterr().err and not (tmp_path / 'work').exists()
    checkpoint = tmp_path / 'x.pth'
    torch.save({'state_dict': {'x': torch.zeros(1)}}, checkpoint)
    assert tool('test')([path, str(checkpoint), '--work-dir', str(tmp_path / 'work'), *wrong]) == 2
    assert expected.format('test') in capsys.readouterr().err


def test_an_image_without_a_mask_is_named(repo, mine, tmp_path) -> None:
    (mine / 'masks/train/day/2.png').unlink()
    with pytest.raises(ValueError, match=r'train: images without a mask: 1 \(\S*day/2\.JPEG has no \S*day/2\.png\)'):
        check_quickly(load_config(config(repo, mine, tmp_path / 'mine.py')))


def test_a_folder_without_images_or_classes_says_so(mine) -> None:
    with pytest.raises(FileNotFoundError, match=r'there are no images in \S*images/test \(\.bmp, '):
        build(mine, data_prefix={'img_path': 'images/test', 'seg_map_path': 'masks/train'})
    (mine / 'classes.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'mine/classes\.json does not exist: write the classes there'):
        build(mine)


@pytest.mark.parametrize(
    ('pixels', 'message'),
    [
        (np.full((64, 80, 3), (255, 0, 9), np.uint8), r'masks of colours .*day/0\.png .*with tools/convert_masks\.py'),
        (np.eye(64, 80, dtype=np.uint8) * 255, r'hold only 0 and 255, and 255 is ignored: the second class is never'),
        (np.eye(64, 80, dtype=np.uint8) * 7, r'labels outside the 2 classes \(7\).*the masks may hold 0–1, and 255'),
    ],
)
def test_masks_that_hold_no_class_indices_are_refused(repo, mine, tmp_path, pixels: np.ndarray, message: str) -> None:
    for mask in (mine / 'masks/train').rglob('*.png'):
        Image.fromarray(pixels).save(mask)
    with pytest.raises(ValueError, match=message):
        check_quickly(load_config(config(repo, mine, tmp_path / 'mine.py')))


@pytest.mark.parametrize('kind', ['CityscapesDataset', 'ADE20KDataset'])
def test_mmsegs_own_data_sets_follow_links_but_no_loops_and_leave_hidden_files_out(tmp_path, kind: str) -> None:
    suffix = {'CityscapesDataset': '_leftImg8bit.png', 'ADE20KDataset': '.jpg'}[kind]
    images, elsewhere = tmp_path / 'images', tmp_path / 'elsewhere'
    for path in (images / 'a/x', images / '.hidden/x', elsewhere / 'deep/y', images / 'a/.z'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + suffix).touch()
    (images / 'link').symlink_to(elsewhere)
    (elsewhere / 'back').symlink_to(images)
    (images / 'a/self').symlink_to(images)
    register_all_modules()
    data = DATASETS.build(
        dict(type=kind, data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='masks'))
    )
    found = [data.get_data_info(index) for index in range(len(data))]
    assert [Path(info['img_path']).relative_to(images).as_posix() for info in found] == [
        f'a/x{suffix}', f'link/deep/y{suffix}'
    ]  # fmt: skip
    assert found[1]['seg_map_path'].startswith(str(tmp_path / 'masks/link/deep/y'))


def test_lists_of_mmsegs_own_data_sets_are_in_any_marked_encoding(tmp_path) -> None:
    (tmp_path / 'list.txt').write_bytes('a/Straße\r\n'.encode('utf-16'))
    register_all_modules()
    data = DATASETS.build(dict(type='ADE20KDataset', ann_file='list.txt', data_root=str(tmp_path)))
    assert [data.get_data_info(index)['img_path'] for index in range(len(data))] == [f'{tmp_path}/a/Straße.jpg']
