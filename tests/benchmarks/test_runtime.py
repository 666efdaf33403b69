"""tools/benchmark.py runtime: every figure is there and plausible; how fast is for the machine to say."""

import json

from tests.conftest import tool


def test_every_figure_is_measured(local_files, tmp_path, capsys) -> None:
    argv = ['runtime', str(local_files['.xml']), '--runs', '1', '--images', '2', '--squares', '300']
    assert tool('benchmark')([*argv, '--json', str(tmp_path / 'x.json')]) == 0
    result = json.loads((tmp_path / 'x.json').read_text())
    assert list(result['latency']) == ['bare graph', 'Segmenter(array)', 'Segmenter(jpg file)', 'Segmenter(png file)']
    assert set(result['images_per_second']) == {'loop', 'stream', 'stream, throughput mode'}
    [memory] = result['memory']
    assert memory['side'] == 300 and memory['image_and_mask_mb'] == 300 * 300 * 4 / 2**20
    assert memory['growth_mb'] is None or 0 <= memory['growth_mb'] < 50
    said = capsys.readouterr().out
    assert 'bare graph' in said and '300 x 300' in said and 'openvino, fp32, 1x64x96x3' in said


def test_what_is_not_asked_for_is_left_out(local_files, capsys) -> None:
    argv = [
        'runtime',
        str(local_files['.onnx']),
        '--backend',
        'onnxruntime',
        '--runs',
        '1',
        '--images',
        '0',
        '--squares',
    ]
    assert tool('benchmark')(argv) == 0
    said = capsys.readouterr().out
    assert 'images/s' not in said and ' MB' not in said and 'onnxruntime, fp32' in said
