"""The benchmark for who has a GPU, on the CPU: what it checks is right there, and its checks see what is wrong."""

import json

import pytest
import torch

from repvgg_seg.benchmarks import gpu, gpu_checks
from repvgg_seg.benchmarks.report import Report
from repvgg_seg.models.variants import VARIANTS
from tests.conftest import TINY_VARIANTS, fails, tool

SIZE = (64, 96)


def test_conversion_is_compared_in_every_way_and_a_wrong_one_fails(monkeypatch) -> None:
    ways = {name: way for name, way in gpu_checks.WAYS.items() if name.startswith('fp32')}
    rows = gpu_checks.conversion(TINY_VARIANTS, SIZE, ways)
    assert [(row.what, row.runtime) for row in rows] == [
        (variant.name, f'cpu {name}') for variant in TINY_VARIANTS for name in ways
    ]
    assert all(row.value <= row.extra['allowed'] for row in rows)

    def wrong(model: torch.nn.Module) -> torch.nn.Module:
        converted = right(model)
        converted.stage1[0].rbr_reparam.weight.data[0] *= 1.1
        return converted

    right = gpu_checks.switch_to_deploy
    monkeypatch.setattr(gpu_checks, 'switch_to_deploy', wrong)
    [row] = gpu_checks.conversion(TINY_VARIANTS[:1], SIZE, {'fp32': ways['fp32']})
    assert row.value is None and row.extra['note'].startswith('FAILED: 0.') and 'is allowed' in row.extra['note']


def test_float32_is_not_tf32_and_the_setting_is_kept() -> None:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    with gpu_checks.without_tf32():
        assert not any(place.allow_tf32 for place in places)
    assert [place.allow_tf32 for place in places] == before


def test_a_step_of_each_training_has_a_loss(tiny_config) -> None:
    rows = gpu_checks.training(str(tiny_config), (32, 32))
    assert [row.runtime for row in rows] == ['cpu fp32', 'cpu bf16 autocast']
    assert all(0 < row.value < 100 for row in rows)


def test_processes_are_started_by_the_command_and_what_ends_badly_is_named(tmp_path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(gpu_checks, '_run', lambda commands: seen.extend(commands) or 0.0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    rows = gpu_checks.processes('demo', tmp_path)
    assert [row.runtime for row in rows] == ['cpu 1 process', 'cpu 2 processes']
    draw, one, two = seen
    assert draw[:2] == ['repvgg_seg', 'demo-data'] and str(tmp_path / 'data') in draw
    assert one[:6] == ['torch.distributed.run', '--standalone', '--nproc-per-node', '1', '-m', 'repvgg_seg']
    assert two[3] == '2' and two[two.index('--launcher') + 1] == 'pytorch' and '--amp' in two
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r'no_such_module ended with 1: .*No module named no_such_module'):
        gpu_checks._run([['no_such_module']])
    assert gpu_checks._run([['this', '-h']]) == 0.0


def test_files_have_the_masks_of_torch(tiny_config, tmp_path) -> None:
    rows = gpu_checks.exported(str(tiny_config), (64, 128), tmp_path)
    assert [(row.what, row.runtime) for row in rows] == [
        ('onnxruntime_fp32.onnx', 'onnxruntime cpu'), ('onnxruntime_fp16.onnx', 'onnxruntime cpu'),
        ('torch_fp32.pt2', 'torch cpu'), ('torch_bf16.pt2', 'torch cpu'),
    ]  # fmt: skip
    assert rows[0].value == 0 and rows[2].value == 0 and all(row.value is not None for row in rows), rows


def test_the_command_writes_one_file_and_says_what_failed_or_had_no_time(tmp_path, monkeypatch, capsys) -> None:
    def fail(*_: object) -> list:
        raise RuntimeError('no\nmemory')

    monkeypatch.setattr(gpu_checks, 'training', fail)
    parts = ('training', 'classifiers', 'table 8', 'peers', 'compiled')
    argv = ['gpu', '--small', '--json', str(tmp_path / 'gpu.json'), '--parts', *parts]
    assert tool('benchmark')(argv) == 0
    out = capsys.readouterr().out
    assert 'not measured: (FAILED: no memory): training' in out
    report = Report.read((tmp_path / 'gpu.json').read_text())
    measured = {(row.what, row.variant, row.extra['size']) for row in report.rows if row.metric == 'latency'}
    assert measured == {
        ('RepVGG-A0', 'train-time', '32x32'), ('RepVGG-A0', 'deployed', '32x32'), ('resnet50', '', '32x32'),
        ('pspnet_repvgg_b1g2_fast_paper_cityscapes', '', '33x33'), ('PSPNet R50 d8', '', '33x33'),
        ('pspnet_repvgg_a0_demo', '', '64x128'), ('Fast-SCNN', '', '64x128'),
    }  # fmt: skip
    assert tool('benchmark')(['gpu', '--small', '--minutes', '0', '--json', str(tmp_path / 'none.json')]) == 0
    rows = json.loads((tmp_path / 'none.json').read_text())['rows']
    assert {row['note'] for row in rows} == {'there was no time for it within 0 minutes'} and len(rows) == 8


def test_the_whole_plan_has_the_tables_of_the_authors(tmp_path, capsys, monkeypatch) -> None:
    assert set(gpu.FULL.archs) == set(VARIANTS)
    made = gpu.parts(gpu.FULL, tmp_path)
    assert {'classifiers 224x224', 'classifiers 320x320', 'table 8 713x713', 'peers 512x1024', 'peers 1024x2048',
            'compiled RepVGG-D2se'} <= set(made)  # fmt: skip
    assert all(name.startswith(gpu.NAMES) for name in made)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 'there is no CUDA device here: --small runs' in fails(capsys, 'benchmark', 'gpu')
