"""The page about a training, from the folder to the file."""

import json
import re
import shutil

import pytest

from repvgg_seg.apps.export import export_model
from tests.conftest import fails, tool


@pytest.fixture
def work_dir(trained, tmp_path):
    """A copy of a finished training, in a folder of an odd name."""
    return shutil.copytree(trained, tmp_path / "it's <b>#1")


def test_the_page_tells_of_training_conversion_and_files(work_dir, deployed, capsys) -> None:
    folder = shutil.copytree(deployed, work_dir / 'deploy')
    model, _ = export_model(folder, 'openvino')
    assert tool('report')([str(work_dir), str(model), '--count', '1', '--runs', '1']) == 0
    out = capsys.readouterr().out
    assert re.search(r'4 of 4 iterations; wrote .*report.html \(0\.\d MB\)', out)
    page = (work_dir / 'report.html').read_text()
    assert '<b>' not in page and 'it&#39;s &lt;b&gt;#1' in page
    for shown in ('Learning curves', 'Confusion matrix', 'Worst 1', 'Best 1', 'Latency in milliseconds', 'algebra'):
        assert shown in page, shown
    assert 'It holds the deployed weights above' in page
    assert 'repvgg-seg train ' in page and 'repvgg-seg export ' in page and '--to openvino' in page
    [mean_iou] = re.findall(r'<dt>mIoU, train-time</dt><dd>([\d.]+)</dd>', page)
    capsys.readouterr()
    tool('test')([str(work_dir), '--work-dir', str(work_dir / 'test')])
    assert f' {mean_iou}\n' in capsys.readouterr().out
    assert not list(work_dir.glob('2*'))[1:]  # the evaluation for the page leaves no records behind


def test_of_an_interrupted_training_the_page_has_what_is_there(work_dir, capsys) -> None:
    for path in [*work_dir.glob('*.pth'), work_dir / 'last_checkpoint']:
        path.unlink()
    [records] = work_dir.glob('*/vis_data/scalars.json')
    lines = records.read_text().splitlines()[:2]
    assert all('loss' in json.loads(line) for line in lines)
    records.write_text('\n'.join([*lines, lines[0][:9]]))
    assert tool('report')([str(work_dir), '--out', str(work_dir / 'half.html')]) == 0
    out = capsys.readouterr().out
    assert 'There is no checkpoint yet, so nothing was evaluated: go on with the training by --resume' in out
    assert '2 of 4 iterations: interrupted, or still at it; wrote ' in out
    page = (work_dir / 'half.html').read_text()
    assert 'Learning curves' in page and 'Worst 1' not in page and '2 of 4 iterations: interrupted' in page


def test_without_its_data_a_training_is_not_evaluated(work_dir, capsys) -> None:
    assert tool('report')([str(work_dir), '--cfg-options', 'data_root=gone']) == 0
    assert re.search(r'Nothing was evaluated: .*gone\S* does not exist', capsys.readouterr().out)


def test_what_is_no_training_is_refused(tmp_path, trained, local_files, capsys) -> None:
    assert 'holds no training, neither records of one nor a checkpoint' in fails(capsys, 'report', tmp_path)
    assert 'is no folder: name the work directory' in fails(capsys, 'report', tmp_path / 'gone')
    assert 'nothing to show with --count -1' in fails(capsys, 'report', trained, '--count', '-1')
    assert 'knows the classes road, tree, car, sky' in fails(capsys, 'report', trained, local_files['.xml'])
