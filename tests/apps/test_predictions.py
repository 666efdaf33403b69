"""What `test --out` and `--show-dir` write."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from repvgg_seg.workflows.evaluation import PredictionHook, write_mask
from tests.conftest import fails, tool


@pytest.fixture
def unlabelled(tmp_path):
    """Two images of one name in different folders, without labels; one is stored on its side."""
    rng = np.random.default_rng(0)
    for folder, orientation in (('a', 1), ('b', 6)):
        exif = Image.Exif()
        exif[0x112] = orientation
        path = tmp_path / f'data/leftImg8bit/val/{folder}/1_leftImg8bit.png'
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(path, exif=exif)
    return tmp_path


def test_files_without_labels_are_named_by_their_paths(tiny_config, trained, unlabelled, capsys) -> None:
    options = [f'data_root={unlabelled / "data"}', 'test_evaluator.format_only=True',
               'test_dataloader.dataset.pipeline.0.color_type=color_ignore_orientation']  # fmt: skip
    argv = [str(tiny_config), str(trained), '--work-dir', str(unlabelled / 'work'), '--cfg-options', *options]
    assert 'the test set has no labels to compare with: write the masks with --out DIR' in fails(capsys, 'test', *argv)
    folders = {name: unlabelled / name for name in ('masks', 'overlays')}
    argv += ['--out', str(folders['masks']), '--show-dir', str(folders['overlays'])]
    assert tool('test')(argv) == 0
    assert 'masks of class indices, from 0 (road) to 18 (bicycle)' in capsys.readouterr().out
    for folder in ('a', 'b'):
        mask, drawing = (cv2.imread(str(path / folder / '1_leftImg8bit.png'), -1) for path in folders.values())
        assert mask.shape == (64, 96) and mask.max() < 19  # as stored, as the pipeline reads it
        assert drawing.shape == (64, 96, 3)


@pytest.mark.parametrize(('classes', 'dtype'), [(150, np.uint8), (300, np.uint16)])
def test_masks_hold_the_indices_of_the_classes(tmp_path, classes: int, dtype: type) -> None:
    data = SimpleNamespace(metainfo={'classes': range(classes)}, data_prefix={'img_path': str(tmp_path / 'images')})
    runner = SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=data)))
    metainfo = {'img_path': str(tmp_path / 'images/x/1.jpg'), 'reduce_zero_label': True}
    mask = torch.tensor([[[0, classes - 1]]])
    sample = SegDataSample(pred_sem_seg=PixelData(data=mask), metainfo=metainfo)
    PredictionHook(str(tmp_path), write_mask).after_test_iter(runner, 0, outputs=[sample])
    written = np.asarray(Image.open(tmp_path / 'x/1.png'))
    assert written.dtype == dtype and written.tolist() == [[0, classes - 1]]  # not 1 more, as mmseg's IoUMetric writes
