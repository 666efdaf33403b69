"""The comparisons on tiny inputs: what they report, never how long it takes."""

import json

import pytest
import torch

from repvgg_seg.benchmarks import classifiers
from tests.conftest import tool


def test_classifiers_are_compared_in_both_forms(tmp_path, capsys) -> None:
    argv = ['classifiers', 'RepVGG-A0', 'resnet18', '--size', '32', '--batch', '2', '--runs', '2']
    assert tool('benchmark')([*argv, '--json', str(tmp_path / 'r.json')]) == 0
    table, result = capsys.readouterr().out, json.loads((tmp_path / 'r.json').read_text())
    assert result['input'] == [2, 3, 32, 32] and result['versions']['torchvision']
    assert list(result['figures']) == list(
        classifiers.CPU_SETTINGS if not torch.cuda.is_available() else classifiers.SETTINGS
    )
    for rows in result['figures'].values():
        assert list(rows) == ['RepVGG-A0 train-time', 'RepVGG-A0 deployed', 'resnet18']
        for row in rows.values():
            assert row['images_per_s'] == pytest.approx(2e3 / row['p50_ms'])
        assert rows['resnet18']['peak_mib'] is None or rows['resnet18']['peak_mib'] > 11e6 * 2 / 2**20
    assert f'{rows["resnet18"]["images_per_s"]:.1f}' in table and '(to RepVGG-A0 train-time)' in table


def test_each_setting_runs_in_its_precision_and_layout(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(classifiers, '_forms', lambda name: {name: Probe(seen)})
    monkeypatch.setattr(torch, 'compile', lambda model: seen.append('compiled') or model)
    classifiers.compare_classifiers(['probe'], size=8, batch=2, runs=1, settings=list(classifiers.SETTINGS))
    assert set(seen) == {
        (torch.float32, False), (torch.float32, True), (torch.bfloat16, True), (torch.float16, True), 'compiled',
    }  # fmt: skip


class Probe(torch.nn.Conv2d):
    """Notes the precision and layout of what it is given and holds."""

    def __init__(self, seen: list) -> None:
        super().__init__(3, 4, 3)
        self.seen = seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight.dtype == x.dtype
        layouts = {t.is_contiguous(memory_format=torch.channels_last) for t in (x, self.weight)}
        self.seen.append((x.dtype, *layouts))
        return x


def test_unknown_network(capsys) -> None:
    assert tool('benchmark')(['classifiers', 'RepVGG-A9']) == 2
    assert "there is no network 'RepVGG-A9'" in capsys.readouterr().err


def test_pipelines_are_compared_on_the_files_of_a_folder(folders, tmp_path, capsys) -> None:
    argv = ['imagenet-data', str(folders), '--images', '5', '--resolution', '16', '--runs', '1']
    assert tool('benchmark')([*argv, '--json', str(tmp_path / 'r.json')]) == 0
    result = json.loads((tmp_path / 'r.json').read_text())
    assert result['images'] == 5 and result['resolution'] == 16 and result['threads'] == 1
    assert list(result['images_per_s']) == ["authors' (PIL)", 'ours (uint8 tensors)', 'decoding, PIL', 'decoding, ours']
    assert f'{result["images_per_s"]["decoding, ours"]:.1f}' in capsys.readouterr().out
    assert tool('benchmark')(['imagenet-data', str(tmp_path / 'empty')]) == 2
    assert 'there is no image to decode' in capsys.readouterr().err
