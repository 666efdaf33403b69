"""Rows, the one table, the one plot, and the one schema of the files under results/."""

import json

import pytest
from PIL import Image

from repvgg_seg.benchmarks.report import Report, Row, plot, speed_ups, table
from repvgg_seg.benchmarks.runtimes import ENGINES

ROWS = [
    Row('net', 'plain', 'torch fp32', 'latency', 20.0, 'ms', {'size': '64x128', 'runs': 3}),
    Row('net', 'folded', 'torch fp32', 'latency', 12345.6, 'ms'),
    Row('net', 'folded', 'OpenVINO fp32', 'latency', 4.0, 'ms'),
    Row('net', 'plain', '', 'work', 0.123456, 'GFLOP'),
    Row('net', 'plain', 'OpenVINO fp32', 'latency', None, 'ms', {'note': 'no such operation'}),
]
REPORT = Report('heads', 'repvgg-seg benchmark heads x', {'device': 'a CPU', 'threads': 2}, {}, '2026-11-28', ROWS)


def test_the_table_has_a_column_a_runtime() -> None:
    lines = table(ROWS).splitlines()
    assert [line.split() for line in lines] == [
        ['latency,', 'ms', 'torch', 'fp32', 'OpenVINO', 'fp32'],
        ['net,', 'plain', '20', '-'],
        ['net,', 'folded', '12346', '4'],
        [],
        ['work,', 'GFLOP'],
        ['net,', 'plain', '0.1235'],
        [],
        ['not', 'measured:', 'OpenVINO', 'fp32', '(no', 'such', 'operation):', 'net,', 'plain'],
    ]
    assert lines[0].index('torch fp32') + len('torch fp32') == lines[1].index('20') + 2  # right-aligned
    assert '99.9998' in table([Row('net', '', '', 'same mask', 99.99981, '%')])


def test_speed_ups_are_against_the_reference_of_the_same_runtime() -> None:
    rows = [*ROWS, Row('net', 'plain', 'OpenVINO fp32', 'latency', 10.0, 'ms', {'size': '1x1', 'batch': 1, 'min': 9.0})]
    gained = speed_ups(rows, lambda row: row.variant == 'plain', same=('what', 'runtime'))
    assert [(row.runtime, row.metric, row.unit) for row in gained] == [
        ('torch fp32', 'speed-up', 'x'),
        ('OpenVINO fp32', 'speed-up', 'x'),
    ]
    assert gained[0].value == pytest.approx(20 / 12345.6) and gained[1].value == 2.5
    assert rows[-1].derived('speed', 1.0, 'GFLOP/s').extra == {'size': '1x1', 'batch': 1}


def test_a_report_is_written_and_read(tmp_path) -> None:
    REPORT.write(tmp_path / 'r.json')
    text = (tmp_path / 'r.json').read_text()
    assert Report.read(text) == REPORT
    assert json.loads(text)['rows'][0] == {
        'what': 'net', 'variant': 'plain', 'runtime': 'torch fp32', 'metric': 'latency', 'value': 20.0, 'unit': 'ms',
        'size': '64x128', 'runs': 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.pop('date'), 'a report of a benchmark has benchmark, command, date'),
        (lambda d: d['rows'][0].pop('unit'), 'a row of a report lacks unit'),
        (lambda d: d['rows'][4].pop('note'), 'neither a value nor a note'),
    ],
)
def test_another_schema_is_refused(change, message: str, tmp_path) -> None:
    REPORT.write(tmp_path / 'r.json')
    values = json.loads((tmp_path / 'r.json').read_text())
    change(values)
    with pytest.raises(ValueError, match=message):
        Report.read(json.dumps(values))


def test_every_result_is_of_the_schema_and_uses_the_names_of_runtimes(repo) -> None:
    paths = [path for path in (repo / 'results').rglob('*.json') if not path.name.endswith('report.json')]
    assert len(paths) >= 15
    for path in paths:
        report = Report.read(path.read_text())
        assert report.rows and report.date and report.machine['device'] and report.machine['threads'], path
        assert report.command.startswith(f'repvgg-seg benchmark {report.benchmark} '), path
        names = {row.runtime.rpartition(' ')[0] for row in report.rows if row.runtime}
        assert names <= set(ENGINES), path
        assert table(report.rows)


def test_the_plot_has_a_bar_a_row_of_the_first_unit(tmp_path) -> None:
    heights = []
    for count in (2, 20):
        rows = [Row('net', f'form {index}', 'torch fp32', 'latency', index + 1.0, 'ms') for index in range(count)]
        plot([*rows, ROWS[3], ROWS[4]], tmp_path / 'chart.png', 'a title')
        heights.append(Image.open(tmp_path / 'chart.png').height)
    assert heights[1] > heights[0] + 800  # 2.2 lines a group
