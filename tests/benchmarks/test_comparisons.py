"""The comparisons on small inputs: what they count and report, never how fast anything is."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from mmseg.registry import MODELS

from repvgg_seg.benchmarks import accuracy, class_map, classifiers, driver, heads, latency, peers, roofline, runtimes
from repvgg_seg.benchmarks.report import Report, Row
from repvgg_seg.runtime.backends import open_model
from repvgg_seg.runtime.precision import Precision
from repvgg_seg.weights.checkpoint_io import read_checkpoint
from repvgg_seg.workflows.config import load_config
from tests.conftest import fails, tool
from tests.local_graph import METADATA, to_openvino

SMALL = ('--runs', '2', '--size', '64x128')


@pytest.fixture
def measured(tmp_path, capsys):
    """Return what runs a comparison and returns its report, and what it printed."""

    def measured(*argv: object) -> tuple[Report, str]:
        files = ['--json', str(tmp_path / 'r.json'), '--plot', str(tmp_path / 'r.png')]
        assert tool('benchmark')([*map(str, argv), *files]) == 0
        assert (tmp_path / 'r.png').read_bytes().startswith(b'\x89PNG')
        report = Report.read((tmp_path / 'r.json').read_text())
        assert report.benchmark == argv[0] and {'python', 'torch', 'openvino'} <= set(report.versions)
        return report, capsys.readouterr().out

    return measured


def select(report: Report, metric: str) -> dict[tuple[str, str, str], float]:
    return {(row.what, row.variant, row.runtime): row.value for row in report.rows if row.metric == metric}


# ---- the driver


def test_a_comparison_is_found_by_its_file_and_listing_them_loads_nothing() -> None:
    script = 'import sys; from repvgg_seg.cli import main; code = main(["benchmark", "--help"])'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    for name, what in driver.comparisons().items():
        assert f'  {name:<14} {what}' in done.stdout and what.endswith('.')
    assert set(driver.comparisons()) == {
        'accuracy', 'class-map', 'classifiers', 'data', 'gpu', 'heads', 'imagenet-data', 'latency', 'peers',
        'pretraining', 'quantization', 'roofline', 'runtime', 'sizes',
    }  # fmt: skip
    script = 'import sys; from repvgg_seg.benchmarks import driver; driver.comparisons(); print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert not {'torch', 'mmengine', 'numpy', 'cv2'} & set(done.stdout.split())


@pytest.mark.parametrize('name', driver.comparisons())
def test_options_have_the_names_of_the_house(name: str, capsys) -> None:
    with pytest.raises(SystemExit):
        tool('benchmark')([name, '--help'])
    text = capsys.readouterr().out
    assert '--images' not in text  # which means paths
    assert ('--size HEIGHTxWIDTH' in text) == ('--size' in text)
    assert not re.search(r'--[a-z-]+ [A-Z]+_[A-Z]+\b|FOLDER', text)  # names of variables in place of N, FILE or DIR


def test_what_cannot_be_measured_is_refused(capsys, tiny_config, deployed, monkeypatch) -> None:
    assert "invalid choice: 'speed'" in fails(capsys, 'benchmark', 'speed')
    assert 'describes a deployed model already' in fails(capsys, 'benchmark', 'latency', deployed / 'deploy.py')
    assert 'nothing to time at batch 0' in fails(capsys, 'benchmark', 'latency', tiny_config, '--batch', '0')
    assert 'size 512x1024 and 0 runs' in fails(capsys, 'benchmark', 'latency', tiny_config, '--runs', '0')
    missing = fails(capsys, 'benchmark', 'latency', tiny_config, '--image', 'none.png')
    assert 'none.png does not exist: check the path' in missing
    message = fails(capsys, 'benchmark', 'latency', tiny_config, '--runtimes', 'TVM')
    assert "there is no runtime 'TVM' here: choose from torch fp32, " in message
    monkeypatch.setattr(runtimes, '_installed', lambda package: package != 'openvino')
    message = fails(capsys, 'benchmark', 'latency', tiny_config, '--runtimes', 'OpenVINO fp32')
    assert 'none of these runtimes runs here: OpenVINO fp32: openvino not installed' in message
    assert "there is no network 'RepVGG-A9'" in fails(capsys, 'benchmark', 'classifiers', 'RepVGG-A9')
    assert 'there is no config RepVGG-Z9' in fails(capsys, 'benchmark', 'roofline', 'RepVGG-Z9')


# ---- the runtimes


def test_runtimes_are_named_by_engine_and_precision(monkeypatch) -> None:
    assert {'torch fp32', 'torch.compile bf16', 'ONNX Runtime fp16', 'OpenVINO bf16'} <= set(runtimes.runtimes())
    assert 'ONNX Runtime bf16' not in runtimes.runtimes()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda row: row.name != 'bf16')
    assert runtimes.runtimes()['torch bf16'].missing == 'this CPU has no bf16 instructions'
    assert not runtimes.runtimes()['torch fp32'].missing


class Probe(torch.nn.Conv2d):
    """Notes the precision and layout of what it is given and holds."""

    def __init__(self, seen: set) -> None:
        super().__init__(3, 4, 3)
        self.seen = seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != 'meta':
            layouts = {t.is_contiguous(memory_format=torch.channels_last) for t in (x, self.weight)}
            self.seen.add((self.weight.dtype, x.dtype, *layouts))
        return super().forward(x)


def test_a_graph_runs_in_the_precision_of_its_runtime_and_what_fails_is_named(monkeypatch) -> None:
    def write(graph, path, metadata) -> None:
        raise RuntimeError('no such\noperation')

    monkeypatch.setitem(runtimes.TARGETS, 'openvino', dataclasses.replace(runtimes.TARGETS['openvino'], write=write))
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda row: row.name != 'fp16')
    seen: set = set()
    names = ['torch fp32', 'torch fp16', 'torch bf16', 'OpenVINO fp32']
    candidates = [
        runtimes.Candidate('probe', '', runtimes.runtimes()[name], lambda: runtimes.ImageGraph(Probe(seen)))
        for name in names
    ]
    images = torch.zeros(2, 8, 10, 3, dtype=torch.uint8)
    rows = runtimes.measure(candidates, images, 2)
    assert seen == {(torch.float32, torch.float32, True), (torch.bfloat16, torch.bfloat16, True)}
    times = [row for row in rows if row.metric == 'latency']
    assert [row.runtime for row in times] == ['torch fp32', 'torch bf16']
    assert times[0].extra['min'] <= times[0].value <= times[0].extra['p95']
    assert times[0].extra | {'runs': 2, 'size': '8x10', 'batch': 2} == times[0].extra
    assert {row.runtime: row.extra['note'] for row in rows if row.value is None} == {
        'torch fp16': 'this CPU has no fp16 instructions',
        'OpenVINO fp32': 'no such operation',
    }
    [work] = [row for row in rows if row.metric == 'work']
    assert work.value == pytest.approx(2 * 2 * 6 * 8 * 4 * 27 / 1e9)
    with pytest.raises(ValueError, match='nothing could be measured: OpenVINO fp32: no such operation'):
        runtimes.measure(candidates[-1:], images, 2)


# ---- the comparisons


def test_latency_compares_forms_runtimes_and_the_way_from_file_to_mask(
    tiny_config, trained, measured, monkeypatch
) -> None:
    mask, found = latency._mmseg_mask, []
    monkeypatch.setattr(
        latency, '_mmseg_mask', lambda model, path: found.append(type(model.decode_head).__name__) or mask(model, path)
    )
    names = ['torch fp32', 'OpenVINO fp32']
    report, text = measured('latency', tiny_config, '--checkpoint', trained, *SMALL, '--runtimes', *names)
    times = select(report, 'latency')
    assert list(times) == [('tiny', 'train-time', names[0]), *(('tiny', 'deployed', name) for name in names)]
    gained = select(report, 'speed-up')
    first, _, last = times.values()
    assert gained['tiny', 'deployed', 'OpenVINO fp32'] == pytest.approx(first / last)
    ways = [
        ('tiny', "mmseg inference_model, train-time, mmseg's heads", 'torch fp32'),
        ('tiny', 'mmseg inference_model, train-time', 'torch fp32'),
        ('tiny', 'mmseg inference_model, deployed', 'torch fp32'),
        ('tiny', 'Segmenter', 'OpenVINO fp32'),
    ]
    assert list(select(report, 'image file to mask')) == list(select(report, 'same mask')) == ways
    assert list(select(report, 'speed-up, image file to mask')) == ways[1:]
    assert found[:3] == ['PSPHead', 'FoldedPSPHead', 'FoldedPSPHead']  # in the order of the ways
    assert min(select(report, 'same mask').values()) > 99.9
    assert 'image file to mask, ms' in text and 'size 64x128, batch 1' in text
    assert report.command.startswith('repvgg-seg benchmark latency ') and "'OpenVINO fp32'" in report.command


def test_roofline_holds_each_graph_against_the_peak_of_its_precision(tiny_config, measured, monkeypatch) -> None:
    monkeypatch.setattr(roofline, 'SIDE', 64)
    report, _ = measured('roofline', 'RepVGG-A0', tiny_config, *SMALL, '--runtimes', 'torch fp32')
    # A stem of 3 -> 48 channels at half the size, and so on: counted by hand from A0's blocks and channels.
    products, previous = 0, 3
    for stage, (blocks, channels) in enumerate(((1, 48), (2, 48), (4, 96), (14, 192), (1, 1280)), 1):
        products += 64 * 128 // 4**stage * 9 * channels * (previous + (blocks - 1) * channels)
        previous = channels
    work, times, shares = (select(report, metric) for metric in ('work', 'latency', 'share of peak'))
    assert work['RepVGG-A0', '', ''] == pytest.approx(2 * products / 1e9, rel=1e-12)
    square = '4 products of 64x64'
    assert work[square, '', ''] == pytest.approx(4 * 2 * 64**3 / 1e9) and work['tiny', '', ''] > 0
    fastest = min(row.extra['min'] for row in report.rows if (row.what, row.metric) == (square, 'latency'))
    assert list(shares) == [('RepVGG-A0', '', 'torch fp32'), ('tiny', '', 'torch fp32')]
    for key, share in shares.items():
        assert share == pytest.approx(100 * work[key[0], '', ''] / times[key] / (work[square, '', ''] / fastest))


def test_peers_stand_beside_ours_in_the_same_runtimes(tiny_config, measured) -> None:
    report, text = measured('peers', tiny_config, *SMALL, '--peers', 'Fast-SCNN', '--runtimes', 'torch fp32')
    assert list(select(report, 'latency')) == [('tiny', '', 'torch fp32'), ('Fast-SCNN', '', 'torch fp32')]
    assert select(report, 'work')['Fast-SCNN', '', ''] > 0 and 'Fast-SCNN' in text


def test_a_peer_trains_by_our_recipe_and_finished_trainings_are_kept(tiny_config, trained, measured, tmp_path) -> None:
    shutil.copytree(trained, tmp_path / 'tiny')
    before = (tmp_path / 'tiny/iter_4.pth').stat().st_mtime_ns
    options = ('--peers', 'PIDNet-S', '--work-dir', tmp_path, *SMALL, '--runtimes', 'torch fp32')
    report, _ = measured('accuracy', tiny_config, *options)
    assert (tmp_path / 'tiny/iter_4.pth').stat().st_mtime_ns == before  # this one was trained already
    assert read_checkpoint(tmp_path / 'PIDNet-S/iter_4.pth')['meta']['iter'] == 4
    assert set(select(report, 'mIoU')) == {('tiny', '', ''), ('PIDNet-S', '', '')}
    assert set(select(report, 'latency')) == {('tiny', '', 'torch fp32'), ('PIDNet-S', '', 'torch fp32')}
    assert {row.extra['iterations'] for row in report.rows if row.metric == 'mIoU'} == {4}


@pytest.mark.parametrize('name', peers.PEERS)
def test_a_peer_gets_the_classes_and_the_images_of_the_recipe(name: str, tiny_config) -> None:
    recipe = load_config('fastseg_repvgg_a0_camvid')
    cfg = accuracy.peer_training(peers.peer_config(peers.PEERS[name]).model, recipe)
    model = MODELS.build(cfg.model)
    classes = {module.num_classes for module in model.modules() if hasattr(module, 'num_classes')}
    assert classes <= {11, 2}  # 2: a head of boundaries
    assert model.decode_head.num_classes == 11 and 'class_weight' not in repr(cfg.model)
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert ('GenerateEdge' in steps) == (name == 'PIDNet-S') and steps[-1] == 'PackSegInputs'


@pytest.mark.parametrize('name', peers.PEERS)
def test_every_peer_is_an_inference_graph_that_needs_no_download(name: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', None)
    graph = peers.peer(peers.PEERS[name])().to('meta')
    with torch.inference_mode():
        scores = graph.scores(torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device='meta'))
    assert scores.shape[:2] == (1, 19)


def test_classifiers_are_compared_in_both_forms(measured, monkeypatch) -> None:
    monkeypatch.setattr(classifiers, 'REFERENCE', 'resnet18')
    argv = ('--size', '32x64', '--batch', '2', '--runs', '2', '--runtimes', 'torch fp32')
    report, text = measured('classifiers', 'RepVGG-A0', 'resnet18', *argv)
    rates, times = select(report, 'throughput'), select(report, 'latency')
    assert list(rates) == [(*form, 'torch fp32') for form in
                           (('RepVGG-A0', 'train-time'), ('RepVGG-A0', 'deployed'), ('resnet18', ''))]  # fmt: skip
    assert all(rates[key] == pytest.approx(2e3 / times[key]) for key in rates)
    assert list(select(report, 'speed-up')) == list(rates)[:2]
    assert 'throughput, images/s' in text and 'size 32x64, batch 2' in text


def test_heads_are_compared_plain_and_folded_in_inference_and_training(tiny_config, measured, monkeypatch) -> None:
    from repvgg_seg.models import folding

    for name in ('folding_pays', 'pooling_pays'):
        monkeypatch.setattr(folding, name, lambda *_: True)
    argv = (*SMALL, '--train-size', '32x64', '--channels', '64', '--runtimes', 'torch fp32')
    report, _ = measured('heads', tiny_config, *argv)
    times, steps, gained = (select(report, metric) for metric in ('latency', 'training step', 'speed-up'))
    assert {key for key in times} == {
        (what, form, 'torch fp32') for what in ('tiny', 'tiny, head') for form in ('plain', 'folded')
    }
    assert list(steps) == [('tiny', form, 'torch fp32') for form in ('plain', 'folded')]
    for key, value in gained.items():
        assert key[1] == 'folded' and value == pytest.approx(times[key[0], 'plain', key[2]] / times[key])
    assert list(select(report, 'speed-up, training step')) == [('tiny', 'folded', 'torch fp32')]
    # A map of 8x16 (output stride 8): the bottleneck, four 1x1 convolutions of 50 cells in all, the classifier.
    operations = 2 * (9 * (96 + 4 * 64) * 64 * 128 + 96 * 64 * 50 + 64 * 19 * 128)
    assert select(report, 'work')['tiny, head', 'plain', ''] == pytest.approx(operations / 1e9, rel=1e-6)


def test_heads_that_cannot_be_folded_are_refused(tiny_config, tmp_path, capsys) -> None:
    path = tmp_path / 'fcn.py'
    path.write_text(
        f"_base_ = ['{tiny_config}']\n"
        "model = dict(decode_head=dict(_delete_=True, type='FCNHead', in_channels=96, in_index=1, channels=8, "
        'num_classes=19))\n'
    )
    argv = (path, '--runtimes', 'torch fp32')
    assert 'has no PSP or UPer head to fold' in fails(capsys, 'benchmark', 'heads', *argv)
    assert '--train-batch at 0' in fails(capsys, 'benchmark', 'heads', *argv, '--train-batch', '-1')


def test_the_class_map_is_made_in_two_ways_and_a_report_is_plain_json(measured, tmp_path) -> None:
    argv = (*SMALL, '--classes', '5', '--strides', '4', '--runtimes', 'torch fp32')
    report, _ = measured('class-map', *argv)
    whats = ('smooth logits at 1/4', 'noise at 1/4')
    forms = [(what, way, 'torch fp32') for what in whats for way in ('enlarged', 'class map')]
    assert list(select(report, 'latency')) == forms and list(select(report, 'speed-up')) == forms[1::2]
    assert set(select(report, 'pixels that differ').values()) == {0}
    values = json.loads((tmp_path / 'r.json').read_text())
    assert set(values) == {'benchmark', 'command', 'machine', 'versions', 'date', 'rows'}
    assert all(isinstance(row, Row) for row in report.rows) and heads.STEP == 'training step'
    cells = select(report, 'boundary cells')
    assert 0 < cells['smooth logits at 1/4', '', ''] < 60 < cells['noise at 1/4', '', '']
    images = torch.full((1, 64, 128, 3), 7, dtype=torch.uint8)
    logits = torch.randn(1, 5, 16, 32)
    maps = [class_map.Tail(logits, 'enlarged')(images + n) for n in (0, 1)]
    assert torch.equal(*maps) and len(maps[0].unique()) == 5


def test_pipelines_are_compared_on_the_files_of_a_folder(folders, measured, tmp_path, capsys) -> None:
    report, text = measured('imagenet-data', folders, '--samples', '5', '--resolution', '16', '--runs', '1')
    assert list(select(report, 'throughput')) == [
        (name, part, '') for part in ('whole', 'decoding') for name in ("authors' (PIL)", 'ours (uint8 tensors)')
    ]
    assert report.rows[0].extra | {'samples': 5, 'size': '16x16', 'threads': 1} == report.rows[0].extra
    assert 'throughput, images/s' in text
    (tmp_path / 'empty').mkdir()
    assert 'there is no image to decode' in fails(capsys, 'benchmark', 'imagenet-data', tmp_path / 'empty')


def test_the_runtime_is_measured_from_array_to_squares(local_files, measured) -> None:
    report, text = measured('runtime', local_files['.xml'], '--runs', '1', '--samples', '2', '--squares', '300')
    assert {row.runtime for row in report.rows} == {'OpenVINO fp32'}
    ways = ['bare graph', 'Segmenter, array', 'Segmenter, jpg file', 'Segmenter, png file']
    assert [variant for _, variant, _ in select(report, 'latency')] == ways
    assert [variant for _, variant, _ in select(report, 'time of the bare graph')] == ways[1:]
    assert [variant for _, variant, _ in select(report, 'throughput')] == ['loop', 'stream', 'stream, throughput mode']
    square = (local_files['.xml'].name, 'square of 300x300', 'OpenVINO fp32')
    assert select(report, 'image and mask')[square] == 300 * 300 * 4 / 2**20
    assert select(report, 'memory beside them')[square] is None or select(report, 'memory beside them')[square] < 50
    assert 'MiB' in text and 'size 64x96' in text


def test_what_is_not_asked_for_is_left_out(local_files, measured) -> None:
    argv = ('--backend', 'onnxruntime', '--runs', '1', '--samples', '0', '--squares')
    report, _ = measured('runtime', local_files['.onnx'], *argv)
    assert {row.metric for row in report.rows} == {'latency', 'time of the bare graph'}


def test_int8_is_timed_in_a_quantized_file(tmp_path, monkeypatch) -> None:
    target = dataclasses.replace(
        runtimes.TARGETS['openvino'], write=lambda graph, path, metadata: to_openvino(path, METADATA)
    )
    monkeypatch.setitem(runtimes.TARGETS, 'openvino', target)
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda row: True)
    monkeypatch.setattr(runtimes, 'operations', lambda graph, images: 0)
    candidate = runtimes.Candidate('any', '', runtimes.runtimes()['OpenVINO int8'], torch.nn.Identity)
    images = torch.zeros(1, *METADATA.size, 3, dtype=torch.uint8)
    assert runtimes.measure([candidate], images, 1, tmp_path)[0].metric == 'latency'
    assert open_model(candidate.file(tmp_path), 'openvino', 'cpu', 'latency')[1].metadata.precision == 'int8'
