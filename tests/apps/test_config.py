"""What a config is found by, and the one that a checkpoint remembers."""

import shutil

import pytest
import torch
from mmengine.config import Config
from torch import nn

from repvgg_seg.apps.config import CONFIGS, find_config, load_config, recorded_config
from repvgg_seg.deploy import convert
from repvgg_seg.openmmlab.datasets import inner_data_sets
from repvgg_seg.openmmlab.runner import CONFIG_KEY, config_from_text, config_to_text
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
    with pytest.raises(ValueError, match='no plain data'):
        config_to_text(Config({'x': object()}))


def test_a_checkpoint_remembers_the_config_with_its_options(trained, tiny_config) -> None:
    cfg = recorded_config(trained)
    assert cfg.model == load_config(tiny_config).model
    assert recorded_config(trained, {'data_root': 'elsewhere'}).test_dataloader.dataset.data_root == 'elsewhere'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'does not hold the config that it was trained with: name the config, too'),
        ("__import__('os').system('touch marker')", 'the recorded config cannot be read'),
        ('[' * 100000, 'the recorded config cannot be read'),
        ('[1]', 'is no dictionary'),
        ("{'custom_imports': {'imports': ['antigravity']}}", "names code of its own, 'antigravity'"),
        ("{'model': {'heads': [{'type': 'os.system'}]}}", "names code of its own, 'os.system'"),
    ],
)
def test_nothing_of_a_recorded_config_runs(tmp_path, monkeypatch, text, message) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({'meta': {} if text is None else {CONFIG_KEY: text}, 'state_dict': {}}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=message):
        recorded_config(tmp_path / 'x.pth')
    assert not (tmp_path / 'marker').exists()


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


def test_a_run_with_options_goes_from_its_work_directory_to_a_file(trained, tiny_config, tmp_path, capsys) -> None:
    work = tmp_path / 'work'
    options = ['--cfg-options', 'model.backbone.arch=RepVGG-A1', 'train_cfg.max_iters=2']
    assert tool('train')([str(tiny_config), '--work-dir', str(work), *options]) == 0
    argv = [str(work), '--to', 'onnx', '--size', '64x128']
    assert tool('export')(argv) == 0
    deploy = work / 'deploy'
    assert (deploy / 'model.onnx').is_file() and "arch='RepVGG-A1'" in (deploy / 'deploy.py').read_text()
    before = (deploy / 'report.json').stat().st_mtime_ns
    assert tool('export')(argv) == 0 and (deploy / 'report.json').stat().st_mtime_ns == before  # it was up to date

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
def test_conversions_that_are_not_told_enough(argv, message, capsys) -> None:
    assert message in fails(capsys, 'convert_deploy', *argv)
