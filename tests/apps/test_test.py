"""tools/test.py on exported files beside checkpoints, and what it writes."""

import csv
import json
import re

import numpy as np
import pytest

from repvgg_seg import files
from repvgg_seg.apps.export import export_model
from tests.conftest import fails, tool


@pytest.fixture(scope='module')
def model(deployed, tmp_path_factory):
    """The trained network as an OpenVINO file."""
    return export_model(deployed, 'openvino', out=tmp_path_factory.mktemp('exported') / 'model.xml')[0]


def test_a_file_is_evaluated_beside_its_checkpoint_and_everything_is_written(
    tiny_config, trained, model, tmp_path, capsys
) -> None:
    argv = [tiny_config, trained, model, '--json', tmp_path / 'x.json', '--csv', tmp_path / 'x.csv']
    assert tool('test')([str(arg) for arg in [*argv, '--work-dir', tmp_path]]) == 0
    table = capsys.readouterr().out
    assert re.search(rf'train-time +{model} +difference', table)
    before, after, difference = map(float, re.search(r'mIoU +([\d.]+) +([\d.]+) +([+-][\d.]+)', table).groups())
    assert abs(after - before) < 0.05 and difference == pytest.approx(after - before, abs=0.005)

    facts = json.loads((tmp_path / 'x.json').read_text())
    assert facts['config']['file'] == str(tiny_config) and "PSPHead'" in facts['config']['text']
    assert {'torch', 'repvgg-seg'} <= set(facts['versions'])
    assert list(facts['results']) == ['train-time', str(model)]
    assert facts['results'][str(model)]['weights'] == {'file': str(model), 'sha256': files.sha256(model)}
    for result in facts['results'].values():
        confusion = np.array(result['confusion'])
        assert confusion.shape == (19, 19) and confusion.sum() == sum(row['pixels'] for row in result['classes'])
        ious = [row['IoU'] for row in result['classes'] if row['IoU'] is not None]
        assert result['mIoU'] == pytest.approx(np.mean(ious), abs=0.005)  # as mmseg's own metric says
        assert result['aAcc'] == pytest.approx(100 * confusion.trace() / confusion.sum(), abs=0.005)
        accuracies = [row['Acc'] for row in result['classes'] if row['Acc'] is not None]
        assert result['mAcc'] == pytest.approx(np.mean(accuracies), abs=0.005)
    rows = list(csv.DictReader((tmp_path / 'x.csv').open()))
    assert len(rows) == 2 * 19 and [row['class'] for row in rows[:2]] == ['road', 'sidewalk']
    assert float(rows[19]['IoU']) == facts['results'][str(model)]['classes'][0]['IoU']


def test_files_alone_are_evaluated(tiny_config, model, capsys) -> None:
    assert tool('test')([str(tiny_config), str(model)]) == 0
    assert re.search(r'mIoU +[\d.]+\n', capsys.readouterr().out)


def test_what_does_not_go_together(tiny_config, trained, model, local_files, tmp_path, capsys) -> None:
    assert 'are two checkpoints: name one' in fails(capsys, 'test', tiny_config, trained, trained)
    assert '--out and --show-dir are for checkpoints' in fails(capsys, 'test', tiny_config, model, '--deploy')
    assert 'in one process: leave --launcher out' in fails(capsys, 'test', tiny_config, model, '--launcher', 'pytorch')
    message = fails(capsys, 'test', tiny_config, local_files['.xml'])
    assert 'knows the classes road, tree, car, sky, and the data road, sidewalk' in message
    assert 'gone.xml does not exist' in fails(capsys, 'test', tiny_config, tmp_path / 'gone.xml')
