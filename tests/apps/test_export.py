"""tools/export.py on a converted segmentor, its files in every runtime, and what a user can do wrong."""

import itertools
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import ExifTags, Image

from repvgg_seg import files
from repvgg_seg.apps import export
from repvgg_seg.apps.export import export_model
from repvgg_seg.benchmarks.report import Report
from repvgg_seg.runtime.metadata import Preparation
from repvgg_seg.runtime.segmenter import Segmenter
from repvgg_seg.weights import pretrained
from repvgg_seg.workflows.config import load_config
from repvgg_seg.workflows.evaluation import evaluate_file
from repvgg_seg.workflows.preparation import default_size, read_preparation, sizes_of_val
from tests.conftest import fails, latest, tool, without_hash_of_config


@pytest.fixture(scope='module')
def exported(deployed, demo_data, tmp_path_factory):
    """The model in each kind of file."""
    folder = tmp_path_factory.mktemp('exported')
    for to, name in (('onnx', 'm.onnx'), ('openvino', 'm.xml'), ('exported-program', 'm.pt2')):
        argv = [deployed, '--to', to, '--out', folder / name, '--images', demo_data / 'leftImg8bit/val']
        assert tool('export')([str(arg) for arg in argv]) == 0
    return folder


@pytest.mark.parametrize(
    ('name', 'backend'),
    [('m.onnx', 'onnxruntime'), ('m.onnx', 'openvino'), ('m.xml', 'openvino'), ('m.pt2', 'torch')],
)
def test_masks_of_held_out_images_are_those_of_the_train_time_model_in_stock_mmseg(
    name: str, backend: str, exported, tiny_config, trained, demo_data, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = init_model(str(tiny_config), str(latest(trained).parent / max(trained.glob('best_*')).name), device='cpu')
    segmenter = Segmenter(exported / name, backend=backend, trust=True)
    images = sorted((demo_data / 'leftImg8bit/val').rglob('*.png'))
    equal = [
        (segmenter(str(image)) == inference_model(model, str(image)).pred_sem_seg.data[0].numpy()) for image in images
    ]
    assert len(images) == 4 and sum(e.sum() for e in equal) / sum(e.size for e in equal) >= 0.9999
    assert segmenter.classes[0] == 'road' and segmenter.palette[0].tolist() == [128, 64, 128]


def test_images_of_other_sizes_are_measured_beside_the_network_at_their_own(
    exported, tiny_config, trained, tmp_path, capsys
) -> None:
    words = ['sizes', str(tiny_config), str(trained), str(exported / 'm.xml'), '--kinds']
    assert tool('benchmark')([*words, '1x', '1.5x', '1:1', '--json', str(tmp_path / 'sizes.json')]) == 0
    rows = Report.read((tmp_path / 'sizes.json').read_text()).rows
    found = {(row.what, row.variant): row.value for row in rows if row.metric == 'mIoU'}
    assert found.keys() == set(itertools.product(('1x', '1.5x', '1:1'), ('own shape', 'test', 'resize', 'tile')))
    measured = evaluate_file(load_config(tiny_config), exported / 'm.xml')['mIoU']
    assert [round(found['1x', way], 2) for way in ('own shape', 'test', 'resize', 'tile')] == [measured] * 4
    for kind in ('0x', '2:0', 'twice'):
        assert f'{kind!r} is neither a scale such as 2x' in fails(capsys, 'benchmark', *words, kind)
    assert '--every begins at 1' in fails(capsys, 'benchmark', *words, '1x', '--every', '0')


def test_the_report_says_what_was_compared(exported, deployed) -> None:
    report = json.loads((exported / 'm.onnx.report.json').read_text())
    assert report['parity']['images'] == 6  # two synthetic ones, and those of --images
    assert report['parity']['agreement'] >= 0.9999 and report['parity']['max_rel'] < 1e-5
    assert report['metadata']['input'] == [1, 64, 128, 3] and report['metadata']['num_classes'] == 19
    recorded = json.loads((deployed / 'report.json').read_text())['deployed']
    assert report['metadata']['source'] == {'file': 'deploy.pth', 'sha256': recorded['sha256']}


def test_converting_and_exporting_read_each_checkpoint_once(trained, tmp_path, monkeypatch) -> None:
    work = shutil.copytree(trained, tmp_path / 'work')
    files_read = []
    read = pretrained.read_checkpoint
    monkeypatch.setattr(pretrained, 'read_checkpoint', lambda path: files_read.append(path.name) or read(path))
    monkeypatch.setattr(export, 'export_segmentor', lambda *args, **options: {})
    export_model(work, 'onnx', size=(64, 128))
    assert files_read == [next(work.glob('best_*')).name, 'deploy.pth']


def test_the_file_is_written_beside_the_model_by_default(deployed, tmp_path, capsys) -> None:
    shutil.copytree(deployed, tmp_path / 'model')
    argv = [str(tmp_path / 'model'), '--to', 'exported-program', '--precision', 'bf16']
    assert tool('export')([*argv, '--size', '32x64', '--image-size', '48x80', '--batch', 'dynamic']) == 0
    message = capsys.readouterr().out
    assert 'model_bf16.pt2' in message and 'images dynamicx48x80x3, bf16' in message
    assert 'of the pixels lead by more than rounding' in message
    assert (tmp_path / 'model/model_bf16.pt2.report.json').is_file()


@pytest.mark.parametrize(
    ('change', 'size'),
    [
        ({}, (64, 128)),  # the training crop, as the tiny config's test pipeline does not resize
        (
            {
                'test_dataloader.dataset.pipeline': [
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=(200, 100)),
                ]
            },
            (100, 200),
        ),
        ({'model.test_cfg': dict(mode='slide', crop_size=(48, 96), stride=(32, 64))}, (48, 96)),
        ({'model.data_preprocessor.size': None}, None),
    ],
)
def test_the_size_is_that_of_the_test_pipeline(change: dict, size, deployed) -> None:
    cfg = Config.fromfile(deployed / 'deploy.py')
    for key, value in change.items():
        cfg.merge_from_dict({key: value})
    if size:
        assert default_size(cfg) == size
    else:
        with pytest.raises(ValueError, match='the config names no size of images: give one with --size'):
            default_size(cfg)


def test_folders_that_hold_something_else(capsys, deployed, tmp_path) -> None:
    def refusal(folder, *options: object) -> str:
        before = sorted(tmp_path.rglob('*'))
        text = fails(capsys, 'export', folder, '--to', 'onnx', *options)
        assert sorted(tmp_path.rglob('*')) == before  # nothing was written
        return text

    model = tmp_path / 'model'
    assert f'{model} is not a folder: name a folder that tools/convert_deploy.py wrote' in refusal(model)
    (tmp_path / 'empty').mkdir()
    assert 'holds no deploy.py and no deploy.pth and no report.json' in refusal(tmp_path / 'empty')
    shutil.copytree(deployed, model)
    whole = (model / 'deploy.pth').read_bytes()
    (model / 'deploy.pth').write_bytes(whole[:-100])
    assert 'deploy.pth is not the file that' in refusal(model)
    (model / 'deploy.pth').write_bytes(whole)
    (model / 'report.json').write_text('{')
    assert 'report.json cannot be read: convert the model again' in refusal(model)
    (model / 'deploy.py').unlink()
    assert 'so it is a classifier' in refusal(model)
    shutil.copy(deployed / 'report.json', model)
    without_hash_of_config(model)
    text = (deployed / 'deploy.py').read_text()
    cfg = Config.fromfile(deployed / 'deploy.py')
    cfg.model.type = cfg.model.pop('segmentor')
    cfg.dump(model / 'deploy.py')
    assert 'does not describe a deployed model' in refusal(model)
    (model / 'deploy.py').write_text(f"{text}\nmodel['data_preprocessor']['test_cfg'] = dict(size_divisor=32)\n")
    assert 'pads images for the test (data_preprocessor.test_cfg)' in refusal(model)


def test_options_that_do_not_fit(capsys, deployed, tmp_path, monkeypatch) -> None:
    def refusal(*options: object) -> str:
        return fails(capsys, 'export', deployed, '--to', *options)

    assert "invalid choice: 'tflite'" in refusal('tflite')
    assert "onnx cannot be exported in 'bf16', only in fp32, fp16, int8" in refusal('onnx', '--precision', 'bf16')
    assert 'sizes and batches begin at 1' in refusal('onnx', '--size', '0x64')
    assert "invalid choice: 'boxes'" in refusal('onnx', '--output', 'boxes')
    assert 'm.bin must end in .xml' in refusal('openvino', '--out', tmp_path / 'm.bin')
    assert 'gone.png does not exist' in refusal('onnx', '--images', tmp_path / 'gone.png')
    (tmp_path / 'empty').mkdir()
    assert 'empty holds no image' in refusal('onnx', '--images', tmp_path / 'empty')
    monkeypatch.setitem(sys.modules, 'openvino', None)
    assert '`pip install openvino` brings it' in refusal('openvino', '--out', tmp_path / 'm.xml')
    assert "'many' is neither a number nor 'dynamic'" in refusal('onnx', '--batch', 'many')


# ---- how the test prepares images

STEPS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def config_of(deployed, *steps: dict, **changes) -> Config:
    """The deployed config with a test pipeline of these steps."""
    cfg = Config.fromfile(deployed / 'deploy.py')
    cfg.test_dataloader.dataset.pipeline = list(steps)
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.parametrize(
    ('steps', 'expected'),
    [
        (STEPS, Preparation()),
        (
            [*STEPS, dict(type='Resize', scale=(2048, 512), keep_ratio=True)],
            Preparation(scale=(512, 2048), keep_ratio=True),
        ),
        (
            [*STEPS, dict(type='Resize', scale=96, interpolation='bicubic')],
            Preparation(scale=(96, 96), interpolation='bicubic'),
        ),
        ([dict(type='LoadImageFromFile', color_type='color_ignore_orientation')], Preparation(upright=False)),
        ([dict(type='LoadImageFromFile', imdecode_backend='pillow')], Preparation(decoder='pillow')),
        ([dict(type='LoadImageFromFile', imdecode_backend=None)], Preparation()),
    ],
)
def test_the_file_says_how_the_test_prepares_images(deployed, steps, expected) -> None:
    assert read_preparation(config_of(deployed, *steps)) == expected
    windows = {'model.test_cfg': dict(mode='slide', crop_size=(48, 96), stride=(32, 64))}
    assert read_preparation(config_of(deployed, *steps, **windows)) == replace(expected, stride=(32, 64))


@pytest.mark.parametrize(
    ('step', 'named'),
    [
        (dict(type='Pad', size=(64, 64)), 'Pad'),
        (dict(type='Resize', scale_factor=0.5), 'Resize'),
        (dict(type='Resize', scale=(9, 9), backend='pillow'), 'Resize'),
        (dict(type='LoadImageFromFile', color_type='grayscale'), 'LoadImageFromFile of grayscale'),
        (dict(type='LoadImageFromFile', imdecode_backend='tifffile'), 'LoadImageFromFile by tifffile'),
    ],
)
def test_a_preparation_that_files_cannot_repeat_is_refused(deployed, step, named) -> None:
    with pytest.raises(ValueError, match=f'the test pipeline has {named}, which no exported file repeats'):
        read_preparation(config_of(deployed, step))
    assert isinstance(read_preparation(config_of(deployed, step), 'tile'), Preparation)


def test_the_sizes_are_those_that_the_test_makes_of_the_images(deployed, tmp_path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    cfg = config_of(deployed, *STEPS)
    data = tmp_path / 'leftImg8bit/val/x'
    data.mkdir(parents=True)
    for number, (size, how) in enumerate([((40, 30), None), ((80, 60), None), ((80, 60), exif), ((200, 20), None)]):
        name = data / f'{number}_leftImg8bit.png'
        Image.new('RGB', size).save(name, **({'exif': how} if how else {}))
    cfg.test_dataloader.dataset.data_root = str(tmp_path)
    cfg.pop('val_dataloader', None)
    boxed = Preparation(scale=(30, 200), keep_ratio=True)
    assert sizes_of_val(cfg, boxed) == {(30, 40): 0.5, (40, 30): 0.25, (20, 200): 0.25}
    assert sizes_of_val(cfg, replace(boxed, upright=False)) == {(30, 40): 0.75, (20, 200): 0.25}
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'gone')
    assert sizes_of_val(cfg, boxed) == {}


def test_export_takes_the_size_of_most_images_and_says_so(deployed, tmp_path, capsys) -> None:
    argv = [str(deployed), '--to', 'openvino', '--out', str(tmp_path / 'x.xml'), '--fit', 'tile', '--output', 'logits']
    assert tool('export')(argv) == 0
    assert 'images of the val set are tested at 100% 64x128; the file is exact' in capsys.readouterr().out
    segmenter = Segmenter(tmp_path / 'x.xml')
    assert segmenter.fit == 'tile' and segmenter.metadata.preparation == Preparation()
    assert segmenter.size == (64, 128) and segmenter.metadata.output == 'logits'


def test_a_file_of_windows_scores_what_the_test_scores(deployed, demo_data, tmp_path) -> None:
    steps = [STEPS[0], dict(type='Resize', scale=(160, 90)), *STEPS[1:]]
    options = {
        'model.test_cfg': dict(mode='slide', crop_size=(48, 64), stride=(16, 40)),
        'model.decode_head.align_corners': True,
        'test_dataloader.dataset.pipeline': steps,
        'test_pipeline': steps,  # which inference_model reads
    }
    path, report = export_model(deployed, 'openvino', out=tmp_path / 'x.xml', cfg_options=options)
    assert report['metadata']['output'] == 'logits' and report['metadata']['input'] == [1, 48, 64, 3]
    cfg = load_config(deployed / 'deploy.py', options)
    model = init_model(cfg, str(deployed / 'deploy.pth'), device='cpu')
    segmenter = Segmenter(path)
    for image in sorted((demo_data / 'leftImg8bit/val').rglob('*.png'))[:2]:
        found = segmenter(image)
        assert len(np.unique(found)) > 1
        assert (found == inference_model(model, str(image)).pred_sem_seg.data[0].numpy()).mean() > 0.999


def test_of_a_named_image_size_the_graph_sees_what_the_test_makes_of_it(deployed, tmp_path) -> None:
    resize = dict(type='Resize', scale=(96, 32), keep_ratio=True)
    options = {'test_dataloader.dataset.pipeline': [STEPS[0], resize, *STEPS[1:]]}
    arguments = dict(out=tmp_path / 'x.pt2', cfg_options=options)
    _, report = export_model(deployed, 'exported-program', image_size=(48, 80), **arguments)
    assert report['metadata']['input'] == [1, 48, 80, 3]
    assert report['metadata']['preparation']['scale'] is None  # the graph resizes
    _, report = export_model(deployed, 'exported-program', **arguments)
    assert report['metadata']['input'] == [1, 32, 64, 3]
    assert report['metadata']['preparation']['scale'] == [32, 96]


@pytest.mark.filterwarnings('ignore:.*computes in int8, for which this CPU has no instructions')
def test_int8_is_calibrated_on_training_images_and_judged_on_the_val_set(
    deployed, tiny_config, demo_data, tmp_path, capsys
) -> None:
    path = tmp_path / 'm.xml'
    argv = [deployed, '--to', 'openvino', '--precision', 'int8', '--calibration', tiny_config]
    argv += ['--calibration-images', 3]
    argv += ['--max-drop', 100, '--min-agreement', 0.5, '--out', path]
    assert tool('export')([str(arg) for arg in argv]) == 0
    lines = capsys.readouterr().out
    assert 'int8 against the float32 file, 3 images of the calibration' in lines and 'mIoU on the val set: ' in lines
    found = json.loads((tmp_path / 'm.xml.report.json').read_text())['quantization']
    assert found['labels'] and found['tolerated'] == {'max_drop': 100, 'min_agreement': 0.5}
    segmenter = Segmenter(path)
    assert segmenter.metadata.precision == 'int8'
    assert segmenter(str(next((demo_data / 'leftImg8bit/val').rglob('*.png')))).shape == (64, 128)


def test_a_folder_has_no_labels_so_agreement_is_demanded(deployed, demo_data, tmp_path, monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(export, 'export_segmentor', lambda *args, **options: asked.update(options) or {})
    images = demo_data / 'leftImg8bit/train'
    export.export_model(
        deployed, 'onnx', precision='int8', calibration=str(images), calibration_images=4, size=(64, 128), batch=None,
        out=tmp_path / 'my model.onnx', accuracy_control=True, keep_float=['a', 'b'], cfg_options={},
    )  # fmt: skip
    calibration = asked['calibration']
    every = sorted(str(path) for path in images.rglob('*.png'))
    assert [*calibration.images] == every[::2] and len(every) == 8
    assert calibration.evaluate is None and calibration.min_agreement == export.MIN_AGREEMENT
    assert calibration.keep_float == ['a', 'b'] and calibration.command == (
        f"repvgg-seg export {deployed} --to onnx --size 64x128 --batch dynamic --precision int8 --out '{tmp_path}/my "
        f"model.onnx' --calibration {images} --calibration-images 4 --accuracy-control"
    )


def test_what_int8_lacks_is_reported_before_anything_is_computed(
    capsys, deployed, tiny_config, demo_data, tmp_path
) -> None:
    def refusal(*options: object, model=deployed, to='openvino', precision='int8') -> str:
        return fails(capsys, 'export', model, '--to', to, '--precision', precision, *options)

    images = demo_data / 'leftImg8bit/val'
    assert '--calibration is for --precision int8, and fp32' in refusal('--calibration', images, precision='fp32')
    assert 'int8 needs images: name a config, or a folder' in refusal()
    message = refusal('--calibration', images, '--calibration-images', 300)
    assert f'300 images were asked for, and {images} has 4 to calibrate with: choose --calibration-images' in message
    assert 'has no labels, which --max-drop needs' in refusal('--calibration', images, '--max-drop', 1)
    unlabelled = tmp_path / 'unlabelled.py'
    unlabelled.write_text(
        f"_base_ = ['{tiny_config}']\n"
        "val_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True, img_path='leftImg8bit/val')))\n"
    )
    assert 'unlabelled.py has no val set with labels to measure the mIoU on' in refusal('--calibration', unlabelled)
    message = refusal('--calibration', images, to='exported-program')
    assert "exported-program cannot be exported in 'int8', only in fp32, fp16, bf16" in message
    model = tmp_path / 'model_int8.xml'
    assert f'{model} is an exported file, and no other is made from it: name the folder' in refusal(
        '--calibration', images, model=model
    )

    shutil.copytree(deployed, tmp_path / 'nan')
    weights = torch.load(tmp_path / 'nan/deploy.pth')
    weights['state_dict']['decode_head.conv_seg.bias'][0] = float('nan')
    torch.save(weights, tmp_path / 'nan/deploy.pth')
    report = json.loads((tmp_path / 'nan/report.json').read_text())
    report['deployed']['sha256'] = files.sha256(tmp_path / 'nan/deploy.pth')
    (tmp_path / 'nan/report.json').write_text(json.dumps(report))
    message = refusal('--calibration', images, model=tmp_path / 'nan')
    assert 'decode_head.conv_seg.bias is not finite everywhere' in message
