"""What a config is found by, and the one that a checkpoint remembers."""

import argparse
import json
import re
import shutil

import mmcv
import pytest
import torch
from mmengine.config import Config
from PIL import EpsImagePlugin
from torch import nn

from repvgg_seg.apps import export
from repvgg_seg.apps.config import add_cfg_options
from repvgg_seg.deploy import convert
from repvgg_seg.openmmlab.datasets import inner_data_sets
from repvgg_seg.openmmlab.runner import CONFIG_KEY, config_from_text, config_to_text
from repvgg_seg.workflows.config import CONFIGS, find_config, load_config, recorded_config
from repvgg_seg.workflows.work_dir import open_checkpoint
from tests.conftest import fails, tool


def test_shipped_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = CONFIGS / 'pspnet_repvgg_a0_demo.py'
    for name in ('pspnet_repvgg_a0_demo', 'pspnet_repvgg_a0_demo.py', 'configs/pspnet_repvgg_a0_demo.py', shipped):
        assert find_config(name) == shipped
    (tmp_path / 'pspnet_repvgg_a0_demo.py').write_text('x = 1')  # one's own comes first
    assert find_config('pspnet_repvgg_a0_demo.py').read_text() == 'x = 1'
    with pytest.raises(FileNotFoundError, match='there is no config elsewhere/pspnet'):
        find_config('elsewhere/pspnet_repvgg_a0_demo.py')


def test_a_config_survives_as_text() -> None:
    cfg = load_config('pspnet_repvgg_a0_demo')
    again = config_from_text(config_to_text(cfg))
    assert again.to_dict() == {k: v for k, v in cfg.to_dict().items() if k not in ('load_from', 'resume')}
    assert isinstance(again.crop_size, tuple)
    with pytest.raises(ValueError, match='not plain data'):
        config_to_text(Config({'x': object()}))


def test_a_checkpoint_remembers_the_config_with_its_options(trained, tiny_config) -> None:
    cfg = recorded_config(open_checkpoint(trained))
    assert cfg.model == load_config(tiny_config).model
    assert (
        recorded_config(open_checkpoint(trained), {'data_root': 'elsewhere'}).test_dataloader.dataset.data_root
        == 'elsewhere'
    )


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'does not hold the config that it was trained with: name the config, too'),
        ("__import__('os').system('touch marker')", 'the recorded config cannot be read'),
        ('[' * 100000, 'the recorded config cannot be read'),
        ('[1]', 'is not a dictionary'),
        ("{'custom_imports': {'imports': ['antigravity']}}", "names code of its own, 'antigravity'"),
        ("{'model': {'heads': [{'type': 'os.system'}]}}", "names code of its own, 'os.system'"),
    ],
)
def test_nothing_of_a_recorded_config_runs(tmp_path, monkeypatch, text, message) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({'meta': {} if text is None else {CONFIG_KEY: text}, 'state_dict': {}}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=message):
        recorded_config(open_checkpoint(tmp_path / 'x.pth'))
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize(
    ('key', 'hint'),
    [
        ('train_cfg.max_iter', 'has no train_cfg.max_iter to change: did you mean train_cfg.max_iters?'),
        ('max_iters', "has no 'max_iters' to change: change train_cfg.max_iters"),
        ('num_classes', "has no 'num_classes' to change: change model.decode_head.num_classes (and 1 more)"),
        ('crop_size', "has no 'crop_size' to change: change"),
        ('optim_wraper.optimizer.lr', "has no 'optim_wraper' to change: did you mean 'optim_wrapper'?"),
        ('model.backbone.archs', 'has no model.backbone.archs to change: did you mean model.backbone.arch?'),
        ('model.decode_head.chanels', 'to change: did you mean model.decode_head.channels?'),
        (
            'model.backbone.init_cgf.type',
            'has no model.backbone.init_cgf to change: did you mean model.backbone.init_cfg?',
        ),
        ('train_dataloader.batch_sise', 'to change: did you mean train_dataloader.batch_size?'),
        ('randomness.sed', 'has no randomness.sed to change: did you mean randomness.seed?'),
    ],
)
def test_an_option_that_changes_nothing_is_refused_with_a_hint(repo, key: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        load_config(repo / 'configs/pspnet_repvgg_a0_demo.py', {key: 3})


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('model.backbone.frozen_stages', 1),  # an argument of the class
        ('optim_wrapper.optimizer.eps', 1e-7),
        ('optim_wrapper.clip_grad.max_norm', 1.0),
        ('model.custom_l2', 1e-4),
        ('model.backbone.init_cfg.type', 'Pretrained'),
        ('train_dataloader.dataset.pipeline.2.ratio_range', (1, 1)),
        ('randomness.seed', 3),
        ('train_dataloader.prefetch_factor', 3),
        ('compile', True),
    ],
)
def test_what_is_built_may_get_any_of_its_arguments(repo, key: str, value: object) -> None:
    cfg = load_config(repo / 'configs/pspnet_repvgg_a0_demo.py', {key: value})
    node = cfg
    for part in key.split('.'):
        node = node[int(part)] if isinstance(node, list) else node[part]
    assert node == value


def test_paths_in_options_are_taken_as_written(tmp_path) -> None:
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    (tmp_path / 'a,b [1] (2').mkdir()
    words = [f'data_root={tmp_path}/a,b [1] (2', 'work_dir=my runs', 'x=1,2', 'y=[a, b]', "z='5 6'", 'n=5']
    assert parser.parse_args(['--cfg-options', *words]).cfg_options == {
        'data_root': f'{tmp_path}/a,b [1] (2', 'work_dir': 'my runs', 'x': [1, 2], 'y': ['a', 'b'], 'z': '5 6', 'n': 5,
    }  # fmt: skip


WRAPPED = """
_base_ = ['{base}']
part = dict(type='CityscapesDataset', data_root='old')
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    dict(type='RepeatDataset', times=2, dataset=dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=part)),
    part,
]))
"""


def test_data_root_reaches_data_sets_inside_wrappers(repo, tmp_path) -> None:
    path = tmp_path / 'wrapped.py'
    path.write_text(WRAPPED.format(base=repo / 'configs/pspnet_repvgg_a0_demo.py'))
    cfg = load_config(path, {'data_root': 'new'})
    parts = [*inner_data_sets(cfg.train_dataloader.dataset), cfg.val_dataloader.dataset]
    assert [part.data_root for part in parts] == ['new'] * 3


def test_a_run_with_options_goes_from_its_work_directory_to_a_file(tiny_config, tmp_path, monkeypatch, capsys) -> None:
    work = tmp_path / 'work'
    options = ['--cfg-options', 'model.backbone.arch=RepVGG-A1', 'train_cfg.max_iters=2']
    assert tool('train')([str(tiny_config), '--work-dir', str(work), *options]) == 0
    argv = [str(work), '--to', 'exported-program', '--size', '64x128']
    assert tool('export')(argv) == 0
    deploy = work / 'deploy'
    assert (deploy / 'model.pt2').is_file() and "arch='RepVGG-A1'" in (deploy / 'deploy.py').read_text()
    written = json.loads((deploy / 'model.pt2.report.json').read_text())
    monkeypatch.setattr(export, 'export_segmentor', lambda *args, **options: written)  # what follows is of the folder
    before = (deploy / 'report.json').stat().st_mtime_ns
    assert tool('export')(argv) == 0 and (deploy / 'report.json').stat().st_mtime_ns == before  # it was up to date

    # What an option changed is not taken for what was trained, and an option may be of the training alone.
    assert tool('export')([*argv, '--cfg-options', 'model.test_cfg.mode=whole', 'train_cfg.max_iters=3']) == 0
    assert json.loads((deploy / 'report.json').read_text())['options']['train_cfg.max_iters'] == 3
    assert tool('export')(argv) == 0 and json.loads((deploy / 'report.json').read_text())['options'] == {}

    text = (deploy / 'deploy.py').read_text()
    (deploy / 'deploy.py').write_text(text.replace('RepVGG-A1', 'RepVGG-A0'))
    assert 'deploy.py is not the file that' in fails(capsys, 'export', deploy, '--to', 'onnx')


def test_a_conversion_that_was_interrupted_is_not_exported(deployed, tmp_path, monkeypatch, capsys) -> None:
    folder = shutil.copytree(deployed, tmp_path / 'deploy')
    monkeypatch.setattr(convert, 'write_checkpoint', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert.write_deployed(folder, nn.Identity(), nn.Identity(), [], model='', source=folder, meta={}, config='')
    assert 'holds no report.json' in fails(capsys, 'export', folder, '--to', 'onnx')


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['pspnet_repvgg_a0_demo'], 'pspnet_repvgg_a0_demo has no weights to convert'),
        (['x.pth'], 'name the folder that is to take the converted x.pth: --out DIR'),
        (['x.pth', 'a', 'b'], 'b is one folder too many'),
        (['x.pth', 'a', '--out', 'b'], 'a is one folder too many'),
        (['RepVGG-A0', 'x.pth', 'a', '--cfg-options', 'a=1'], 'a classifier has no config'),
        (['nowhere.py', 'x.pth', 'a'], 'there is no config nowhere.py'),
    ],
)
def test_conversions_with_too_few_or_too_many_arguments(argv, message, capsys) -> None:
    assert message in fails(capsys, 'convert_deploy', *argv)


def test_a_work_directory_is_evaluated_by_itself(trained, tmp_path, capsys) -> None:
    work_dir = shutil.copytree(trained, tmp_path / 'w')
    before = {path.name for path in work_dir.iterdir()}
    assert tool('test')([str(work_dir)]) == 0
    assert {path.name for path in work_dir.iterdir()} == before | {'test'}  # nothing beside records of the training
    assert 'mIoU' in capsys.readouterr().out
    assert 'name that before x.onnx' in fails(capsys, 'test', 'x.onnx')
    assert 'nothing to evaluate: name weights after pspnet_repvgg_a0_demo' in fails(
        capsys, 'test', 'pspnet_repvgg_a0_demo'
    )


def test_no_reader_of_a_training_starts_ghostscript(tiny_config, monkeypatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', 'gs')  # as where it is installed
    load_config(tiny_config)
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n'
    with pytest.raises(OSError, match='Unable to locate Ghostscript'):
        mmcv.imfrombytes(eps, flag='unchanged', backend='pillow')
