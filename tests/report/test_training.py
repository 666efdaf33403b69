"""What a folder of a training holds, whole or not."""

import json

import pytest

from repvgg_seg.report.training import curves, read_reports, read_training


def write(folder, start: str, *records: object) -> None:
    path = folder / start / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(one if isinstance(one, str) else json.dumps(one) for one in records))


def test_of_a_resumed_training_counts_what_counts_in_the_end(tmp_path) -> None:
    write(tmp_path, '2026_a', *({'step': step, 'loss': 9.0} for step in (1, 2, 3, 4)), {'step': 4, 'mIoU': 1.0})
    write(
        tmp_path,
        '2026_b',
        {'step': 3, 'loss': 5.0},
        {'step': 4, 'loss': 4.0},
        {'step': 4, 'mIoU': 2.0},
        '{"step": 5, "lo',
    )
    write(tmp_path, '2026_c', {'step': 0, 'mIoU': 7.0})  # an evaluation, which is no training
    training = read_training(tmp_path)
    assert curves(training.steps, ['loss']) == {'loss': ([1, 2, 3, 4], [9.0, 9.0, 5.0, 4.0])}
    assert curves(training.evaluations, ['mIoU']) == {'mIoU': ([4], [2.0])}
    assert training.last_step == 4 and training.config is None
    (tmp_path / 'iter_6.pth').touch()
    assert read_training(tmp_path).last_step == 6


def test_a_folder_without_a_training_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='gone is no folder: name the work directory of a training'):
        read_training(tmp_path / 'gone')
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(ValueError, match='holds no training, neither records of one nor a checkpoint: train first'):
        read_training(tmp_path)


def test_a_damaged_report_is_named(tmp_path) -> None:
    assert read_reports(tmp_path, []) == {'conversion': None, 'exports': {}}
    (tmp_path / 'model.onnx.report.json').write_text('{')
    with pytest.raises(ValueError, match=r'model.onnx.report.json is damaged .*: convert or export again'):
        read_reports(tmp_path, [tmp_path / 'model.onnx'])
    (tmp_path / 'model.onnx.report.json').write_text('{"file": "model.onnx"}')
    with pytest.raises(ValueError, match=r'is damaged \(it has no parity\)'):
        read_reports(tmp_path, [])
