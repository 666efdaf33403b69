"""The comparisons of tools/benchmark.py on small inputs: what they count and report, not how fast anything is."""

import dataclasses
import json

import pytest
import torch

from repvgg_seg.benchmarks import latency, peers, roofline, runtimes
from tests.conftest import fails, tool

TIME = ('p50_ms', 'p95_ms', 'runs', 'peak_memory_mib')


def figures(name: str, tmp_path, *argv: object) -> dict:
    files = ['--json', str(tmp_path / 'figures.json'), '--plot', str(tmp_path / 'figures.png')]
    assert tool('benchmark')([name, *map(str, argv), *files, '--runs', '2', '--size', '64x128']) == 0
    assert (tmp_path / 'figures.png').read_bytes().startswith(b'\x89PNG')
    return json.loads((tmp_path / 'figures.json').read_text())


def test_latency_compares_forms_runtimes_and_the_way_from_file_to_mask(
    tiny_config, trained, tmp_path, capsys, monkeypatch
) -> None:
    mask, heads = latency._mmseg_mask, []
    monkeypatch.setattr(
        latency, '_mmseg_mask', lambda model, path: heads.append(type(model.decode_head).__name__) or mask(model, path)
    )
    names = ['torch bf16', 'OpenVINO fp32']
    result = figures('latency', tmp_path, tiny_config, '--checkpoint', trained, '--runtimes', *names)
    assert list(result['latency']) == ['train-time, torch fp32', 'deployed, torch bf16', 'deployed, OpenVINO fp32']
    for measured in result['latency'].values():
        assert set(TIME) <= set(measured) and measured['runs'] == 2 and measured['peak_memory_mib'] >= 0
    times = [t['p50_ms'] for t in result['latency'].values()]
    assert result['speedup']['deployed, OpenVINO fp32'] == pytest.approx(times[0] / times[2])
    ways = result['end_to_end']
    assert list(ways) == [
        "mmseg inference_model, train-time, mmseg's heads",
        'mmseg inference_model, train-time',
        'mmseg inference_model, deployed',
        'Segmenter, OpenVINO fp32',
    ]
    assert heads[:3] == ['PSPHead', 'FoldedPSPHead', 'FoldedPSPHead']  # in the order of the ways
    assert min(way['agreement'] for way in ways.values()) > 0.999
    assert result['input'] == [1, 64, 128, 3] and result['weights'] == trained.name
    said = capsys.readouterr().out
    assert f'{times[2]:.1f}' in said and 'from an image file to its mask' in said


def test_latency_refuses_what_it_cannot_compare(capsys, tiny_config, deployed, monkeypatch) -> None:
    assert 'describes a deployed model already' in fails(capsys, 'benchmark', 'latency', deployed / 'deploy.py')
    assert 'nothing to time at batch 0' in fails(capsys, 'benchmark', 'latency', tiny_config, '--batch', '0')
    assert 'size 512x1024 and 0 runs' in fails(capsys, 'benchmark', 'latency', tiny_config, '--runs', '0')
    missing = fails(capsys, 'benchmark', 'latency', tiny_config, '--image', 'none.png')
    assert 'none.png does not exist: check the path' in missing
    said = fails(capsys, 'benchmark', 'latency', tiny_config, '--runtimes', 'TVM')
    assert "there is no runtime 'TVM' here: choose from torch fp32, " in said
    monkeypatch.setattr(runtimes, '_there', lambda package: package != 'openvino')
    said = fails(capsys, 'benchmark', 'latency', tiny_config, '--runtimes', 'OpenVINO fp32')
    assert 'none of these runtimes is here: OpenVINO fp32: openvino not installed' in said
    left, missing = runtimes.chosen(None)
    assert 'OpenVINO fp32' in missing and 'torch fp32' in {runtime.name for runtime in left}


def test_roofline_holds_each_graph_against_the_peak_of_its_precision(
    tiny_config, tmp_path, monkeypatch, capsys
) -> None:
    rates = iter([100.0, 80.0])  # of torch and of OpenVINO
    monkeypatch.setattr(roofline, 'gemm_rate', lambda latency: next(rates))
    result = figures('roofline', tmp_path, 'RepVGG-A0', tiny_config, '--runtimes', 'torch fp32', 'OpenVINO fp32')
    trunk, _, network, _ = result['graphs']
    assert trunk['model'] == 'RepVGG-A0' and network['model'] == tiny_config.stem
    # A stem of 3 -> 48 channels at half the size, and so on: counted by hand from A0's blocks and channels.
    products, previous = 0, 3
    for stage, (blocks, channels) in enumerate(((1, 48), (2, 48), (4, 96), (14, 192), (1, 1280)), 1):
        products += 64 * 128 // 4**stage * 9 * channels * (previous + (blocks - 1) * channels)
        previous = channels
    assert trunk['gflop'] == pytest.approx(2 * products / 1e9, rel=1e-12) and network['gflop'] > trunk['gflop']
    assert trunk['gflop_per_s'] == pytest.approx(trunk['gflop'] / trunk['p50_ms'] * 1e3)
    assert trunk['share_of_peak'] == pytest.approx(trunk['gflop_per_s'] / 100)
    assert 'peak fp32: 100 GFLOP/s' in capsys.readouterr().out
    said = fails(capsys, 'benchmark', 'roofline', 'RepVGG-Z9')
    assert "'RepVGG-Z9' is neither a config nor one of RepVGG-A0" in said


def test_the_peak_is_measured_in_torch_and_in_openvino() -> None:
    calls = roofline.products(['fp32'], openvino=True)
    assert list(calls) == [('fp32', 'torch'), ('fp32', 'openvino')]
    for result in (calls['fp32', 'torch'](), calls['fp32', 'openvino']()[0]):
        assert tuple(result.shape) == (2048, 2048)
    assert list(roofline.products(['bf16'], openvino=False)) == [('bf16', 'torch')]


def test_peers_stand_beside_ours_in_the_same_runtimes(tiny_config, tmp_path, capsys) -> None:
    result = figures('peers', tmp_path, tiny_config, '--peers', 'Fast-SCNN', '--runtimes', 'torch fp32')
    assert list(result['latency']) == [tiny_config.stem, 'Fast-SCNN']
    assert result['latency']['Fast-SCNN']['torch fp32']['runs'] == 2 and result['gflop']['Fast-SCNN'] > 0
    assert 'Fast-SCNN' in capsys.readouterr().out


@pytest.mark.parametrize('name', peers.PEERS)
def test_every_peer_is_an_inference_graph_that_needs_no_download(name: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', None)
    graph = peers._theirs(peers.PEERS[name])()
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    with torch.inference_mode():
        classes = graph(images)
    assert classes.shape == (1, 64, 64) and classes.dtype == torch.uint8
    assert roofline.operations(graph, images) > 0


def test_a_chart_has_a_bar_a_value(tmp_path) -> None:
    from PIL import Image

    from repvgg_seg.benchmarks.plots import bar_chart

    heights = []
    for count in (2, 20):
        values = {f'candidate {index}': index + 1.0 for index in range(count)}
        bar_chart({'a': values, 'b': {'x': 2.0}}, tmp_path / 'chart.png', title='t', unit='ms')
        heights.append(Image.open(tmp_path / 'chart.png').height)
    assert heights[1] > heights[0] + 400


def test_a_runtime_that_cannot_take_a_network_is_named_and_the_others_run(
    tiny_config, tmp_path, monkeypatch, capsys
) -> None:
    def write(graph, path, metadata) -> None:
        raise RuntimeError('no such\noperation')

    monkeypatch.setitem(runtimes.TARGETS, 'openvino', dataclasses.replace(runtimes.TARGETS['openvino'], write=write))
    argv = (tiny_config, '--peers', 'Fast-SCNN', '--runtimes', 'torch fp32', 'OpenVINO fp32')
    result = figures('peers', tmp_path, *argv)
    assert set(result['latency']['Fast-SCNN']) == {'torch fp32'}
    assert result['not_measured']['Fast-SCNN | OpenVINO fp32'] == 'no such operation'
    assert 'not measured: tiny | OpenVINO fp32 (no such operation)' in capsys.readouterr().out
