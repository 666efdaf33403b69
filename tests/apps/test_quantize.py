"""Quantization-aware training from the command line: norms behind fused kernels, a training, and the int8 file."""

import json
import re
from pathlib import Path

import pytest
import torch

from repvgg_seg.workflows.config import load_config
from tests.conftest import fails, latest, tool

pytestmark = pytest.mark.filterwarnings('ignore:.*computes in int8, for which this CPU has no instructions')

QUANTIZED = """
_base_ = ['{base}', '{repo}/configs/_base_/quantization_aware.py']
model = dict(_base_.quantized_model, quantized=7)
optim_wrapper = _base_.quantized_optim_wrapper
param_scheduler = _base_.quantized_param_scheduler
train_cfg = dict(_base_.quantized_train_cfg, max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
"""


def test_norms_are_inserted_trained_with_fake_quantization_and_exported(
    repo, tiny_config, deployed, demo_data, tmp_path, capsys
) -> None:
    assert (
        tool('quantize')(['insert-bn', str(deployed), str(tiny_config), '--out', 'bn', '--calibration-images', '2'])
        == 0
    )
    assert 'wrote' in capsys.readouterr().out
    weights = torch.load('bn/insert_bn.pth', weights_only=True)['state_dict']
    assert 'backbone.stage0.bn.running_mean' in weights and 'backbone.stage0.rbr_reparam.weight' in weights
    Path('qat.py').write_text(QUANTIZED.format(base=tmp_path / 'bn/model.py', repo=repo))
    cfg = load_config('qat.py')
    assert cfg.optim_wrapper.optimizer.type == 'AdamW' and cfg.load_from == str(tmp_path / 'bn/insert_bn.pth')
    assert tool('train')(['qat.py', '--work-dir', 'qat']) == 0
    trained = torch.load(latest(tmp_path / 'qat'), weights_only=False)['state_dict']
    assert trained['backbone.stage1.0.quantizer.high'] > 0
    for name in ('running_mean', 'running_var'):  # they stay
        assert trained[f'backbone.stage2.0.bn.{name}'].equal(weights[f'backbone.stage2.0.bn.{name}'])
    assert not trained['backbone.stage2.0.bn.bias'].equal(weights['backbone.stage2.0.bn.bias'])
    capsys.readouterr()

    images = demo_data / 'leftImg8bit/val'
    argv = ['qat', '--to', 'openvino', '--precision', 'int8', '--images', str(images), '--size', '64x128']
    assert tool('export')(argv) == 0
    message = capsys.readouterr().out
    assert re.search(r'\d+ images through it: [\d.]+% of the pixels as in torch with the rounding', message)
    report = json.loads(Path('qat/deploy/report.json').read_text())
    assert report['rounded']['agreement'] >= 0.995
    assert tool('test')(['qat.py', 'qat', 'qat/deploy/model_int8.xml', '--json', 'x.json', '--work-dir', 'test']) == 0
    results = list(json.loads(Path('x.json').read_text())['results'].values())
    mean_ious = [sum(row['IoU'] or 0 for row in result['classes']) / 19 for result in results]
    assert mean_ious[0] == pytest.approx(mean_ious[1], abs=0.1)
    assert 'was trained in int8 and has its ranges' in fails(capsys, 'export', *argv, '--calibration', images)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_insert_bn_is_not_for(tiny_config, deployed, tmp_path, capsys) -> None:
    def message(model, config=tiny_config, *options: object) -> str:
        return fails(capsys, 'quantize', 'insert-bn', model, config, '--out', tmp_path / 'bn', *options)

    Path('model.xml').touch()
    assert 'is an exported file, and no other is made from it' in message('model.xml')
    assert 'deploy.py is not a config to train a RepVGGSegmentor with' in message(deployed, deployed / 'deploy.py')
    assert '300 images were asked for' in message(deployed, tiny_config, '--calibration-images', 300)
    assert not Path('bn').exists()
