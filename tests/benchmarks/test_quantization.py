"""int8 by every way: what is measured of a tiny network, what is refused, and what is not done again."""

import json

import pytest

from repvgg_seg.benchmarks import quantization
from repvgg_seg.benchmarks.report import Report
from repvgg_seg.deploy.quantize import QuantizationRefused
from repvgg_seg.weights.checkpoint_io import read_checkpoint
from repvgg_seg.workflows.config import load_config
from tests.conftest import fails, tool

pytestmark = pytest.mark.filterwarnings('ignore:.*computes in int8, for which this CPU has no instructions')


def test_steps_are_measured_once_and_what_is_refused_has_no_file(
    tiny_config, trained, tmp_path, monkeypatch, capsys
) -> None:
    export = quantization.export_model

    def exported(model_dir, to, *, out, **options):
        if 'hard-ptq' in out.parts:
            raise QuantizationRefused('int8 loses too much', {'mIoU': {'int8': 3.5}})
        return export(model_dir, to, out=out, **options)

    monkeypatch.setattr(quantization, 'export_model', exported)
    argv = ['quantization', str(tiny_config), str(trained), '--work-dir', str(tmp_path / 'work')]
    argv += ['--qat-iterations', '2', '--runs', '1', '--weight-bits', '7', '--max-drop', '100']
    argv += ['--calibration-images', '2', '--steps', 'float', 'ptq-openvino', 'qat', 'hard-ptq']
    again = [*argv, '--json', str(tmp_path / 'r.json'), '--plot', str(tmp_path / 'r.png')]
    assert tool('benchmark')(argv) == 0
    for name in quantization.STEPS:
        monkeypatch.setitem(quantization.STEPS, name, None)  # nothing is done again
    assert tool('benchmark')(again) == 0 and (tmp_path / 'r.png').is_file()
    rows = Report.read((tmp_path / 'r.json').read_text()).rows
    found = {(row.what, row.metric): row.value for row in rows}
    steps = ('float', 'ptq-openvino', 'qat')
    assert all(found[name, metric] is not None for name in steps for metric in ('mIoU', 'latency', 'size'))
    assert found['float', 'size'] > 2 * found['ptq-openvino', 'size'] > 0 and found['ptq-openvino', 'agreement'] > 30
    # What training evaluated is what the file computes.
    assert found['qat', 'mIoU'] == pytest.approx(found['qat', 'mIoU in torch'], abs=0.1)
    assert found['qat', 'agreement'] >= 99.5
    assert {name: found[name, 'refused'] for name in (*steps, 'hard-ptq')} == {**dict.fromkeys(steps, 0), 'hard-ptq': 1}
    assert found['hard-ptq', 'mIoU'] == 3.5 and ('hard-ptq', 'latency') not in found
    assert 'note' in next(row.extra for row in rows if (row.what, row.metric) == ('hard-ptq', 'mIoU'))
    assert not list((tmp_path / 'work/hard-ptq').glob('model*'))
    # The hard network is another one of the same mIoU.
    weights = [read_checkpoint(path)['state_dict'] for path in (trained / 'iter_4.pth', tmp_path / 'work/hard.pth')]
    assert not weights[0]['backbone.stage0.rbr_dense.bn.weight'].equal(
        weights[1]['backbone.stage0.rbr_dense.bn.weight']
    )
    hard = json.loads((tmp_path / 'work/hard-float/result.json').read_text())
    assert hard['mIoU'] == pytest.approx(found['float', 'mIoU'], abs=0.01)

    capsys.readouterr()
    message = fails(capsys, 'benchmark', *argv[:6], '5', *argv[7:])
    assert 'has steps of other qat iterations: choose another --work-dir' in message
    assert 'begin at 1' in fails(capsys, 'benchmark', *argv, '--runs', '0')


def test_fake_quantization_is_trained_by_the_shipped_schedule_made_as_long_as_asked(tiny_config, tmp_path) -> None:
    cfg = load_config(tiny_config)
    comparison = quantization.Comparison(tmp_path, cfg, tmp_path / 'x.pth', 200, 7, None, 1.0)
    made = comparison.with_fake_quantization(cfg, tmp_path / 'x.pth')
    assert made.model.quantized == 7 and made.load_from == str(tmp_path / 'x.pth') and made.train_cfg.max_iters == 200
    assert [(step.begin, step.end) for step in made.param_scheduler] == [(0, 10), (10, 200)]
    assert made.optim_wrapper.optimizer.type == 'AdamW' and not made.optim_wrapper.get('_delete_')
    assert 'quantized' not in cfg.model
