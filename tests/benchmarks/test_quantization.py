"""int8 by every way: what is measured of a tiny network, what is refused, and what is not done again."""

import pytest
import torch

from repvgg_seg.benchmarks import quantization
from repvgg_seg.benchmarks.report import Report
from repvgg_seg.deploy.quantize import QuantizationRefused
from repvgg_seg.weights.pretrained import Checkpoint, load_weights
from repvgg_seg.workflows.config import build_segmentor, load_config
from tests.conftest import fails, relative, tool

pytestmark = pytest.mark.filterwarnings('ignore:.*computes in int8, for which this CPU has no instructions')


def test_steps_are_measured_once_and_what_is_refused_has_no_file(
    tiny_config, trained, tmp_path, monkeypatch, capsys
) -> None:
    export = quantization.export_model

    def exported(model_dir, to, *, out, **options):
        if 'ptq-openvino' in out.parts:
            raise QuantizationRefused('int8 loses too much', {'mIoU': {'int8': 3.5}})
        return export(model_dir, to, out=out, **options)

    monkeypatch.setattr(quantization, 'export_model', exported)
    argv = ['quantization', str(tiny_config), str(trained), '--work-dir', str(tmp_path / 'work')]
    argv += ['--qat-iterations', '2', '--runs', '1', '--weight-bits', '7', '--max-drop', '100']
    argv += ['--calibration-images', '2', '--steps', 'float', 'ptq-openvino']
    again = [*argv, '--json', str(tmp_path / 'r.json'), '--plot', str(tmp_path / 'r.png')]
    assert tool('benchmark')(argv) == 0
    for name in quantization.STEPS:
        monkeypatch.setitem(quantization.STEPS, name, None)  # nothing is done again
    assert tool('benchmark')(again) == 0 and (tmp_path / 'r.png').is_file()
    rows = Report.read((tmp_path / 'r.json').read_text()).rows
    found = {(row.what, row.metric): row.value for row in rows}
    assert all(found['float', metric] for metric in ('mIoU', 'latency', 'size'))
    assert (found['float', 'refused'], found['ptq-openvino', 'refused']) == (0, 1)
    assert found['ptq-openvino', 'mIoU'] == 3.5 and ('ptq-openvino', 'latency') not in found
    assert 'note' in next(row.extra for row in rows if (row.what, row.metric) == ('ptq-openvino', 'mIoU'))
    assert not list((tmp_path / 'work/ptq-openvino').glob('model*'))

    capsys.readouterr()
    message = fails(capsys, 'benchmark', *argv[:6], '5', *argv[7:])
    assert 'has steps of other qat iterations: choose another --work-dir' in message
    assert 'begin at 1' in fails(capsys, 'benchmark', *argv, '--runs', '0')


def test_the_hard_network_has_other_weights_and_the_same_logits(tiny_config, trained, tmp_path) -> None:
    cfg = load_config(tiny_config)
    checkpoint = quantization.find_checkpoint(trained)
    made = quantization.Comparison(tmp_path, cfg, checkpoint, 1, 7, None, 1.0).hard()
    models = [build_segmentor(cfg).double().eval() for _ in range(2)]
    for model, path in zip(models, (checkpoint, made), strict=True):
        load_weights(model, Checkpoint.read(path))
    norms = [model.backbone.stage0.rbr_dense.bn.weight for model in models]
    assert not norms[0].equal(norms[1])
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    logits = [model.encode_decode(images, [dict(ori_shape=(64, 96), img_shape=(64, 96))]) for model in models]
    assert relative(logits[1], logits[0]) < 1e-5  # the checkpoint holds float32


def test_fake_quantization_is_trained_by_the_shipped_schedule_made_as_long_as_asked(tiny_config, tmp_path) -> None:
    cfg = load_config(tiny_config)
    comparison = quantization.Comparison(tmp_path, cfg, tmp_path / 'x.pth', 200, 7, None, 1.0)
    made = comparison.with_fake_quantization(cfg, tmp_path / 'x.pth')
    assert made.model.quantized == 7 and made.load_from == str(tmp_path / 'x.pth') and made.train_cfg.max_iters == 200
    assert [(step.begin, step.end) for step in made.param_scheduler] == [(0, 10), (10, 200)]
    assert made.optim_wrapper.optimizer.type == 'AdamW' and not made.optim_wrapper.get('_delete_')
    assert 'quantized' not in cfg.model
