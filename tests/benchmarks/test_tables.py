"""The tables of README.md and docs/ are those of the files in results/."""

import json
from pathlib import Path

import pytest

from repvgg_seg.benchmarks import tables
from repvgg_seg.benchmarks.report import Report, Row

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / 'README.md', *sorted((REPO / 'docs').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_no_page_is_stale(page) -> None:
    assert tables.renew(page, REPO) == page.read_text(), 'renew it: make tables'


def test_readme_and_results_have_tables() -> None:
    count = {page.name: len(tables.TABLE.findall(page.read_text())) for page in PAGES}
    assert count['README.md'] == 1 and count['results.md'] >= 8


ROWS = [
    Row('a', 'x', 'torch fp32', 'latency', 12.345, 'ms', {'size': '2x3'}),
    Row('a', 'x', 'torch fp32', 'speed-up', 2.0, 'x', {}),
    Row('a', 'y', 'torch bf16', 'latency', None, 'ms', {'note': 'none'}),
    Row('b|c', 'x', 'torch bf16', 'latency', 0.5, 'ms', {}),
    Row('b|c', '', '', 'work', 7.0, 'GFLOP', {}),
]


@pytest.fixture
def root(tmp_path) -> Path:
    report = Report(
        'peers', 'repvgg-seg benchmark peers', {'device': 'CPU', 'threads': 2}, {'torch': '2'}, '2026-01-02', ROWS
    )
    report.write(tmp_path / 'results/r.json')
    return tmp_path


def page(root: Path, wish: str) -> Path:
    path = root / 'docs/page.md'
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'before\n<!-- table: {wish} -->\nold\n<!-- end of table -->\nafter\n')
    return path


def test_a_table_is_made_of_rows_and_their_origin_and_the_rest_is_kept(root) -> None:
    path = page(root, 'results/r.json; rows: what; metrics: latency + speed-up + work')
    text = tables.renew(path, root)
    assert text.splitlines() == [
        'before',
        '<!-- table: results/r.json; rows: what; metrics: latency + speed-up + work -->',
        '| | x, torch fp32 | x, torch bf16 | work |',
        '| --- | --- | --- | --- |',
        '| a | 12.35 ms, 2x | – | – |',
        '| b/c | – | 0.5 ms | 7 GFLOP |',
        '',
        '- [r.json](../results/r.json): size 2x3, CPU, 2 threads, 2026-01-02, torch 2: `repvgg-seg benchmark peers`',
        '<!-- end of table -->',
        'after',
    ]
    path.write_text(text)
    assert tables.renew(path, root) == text
    other = page(root, 'results/r.json; rows: what variant runtime; metrics: latency; without: torch bf16')
    assert '| | latency |\n| --- | --- |\n| a, x, torch fp32 | 12.35 ms |\n\n' in tables.renew(other, root)


def test_evaluations_and_conversions_are_results_too(root) -> None:
    facts = {
        'config': {'file': 'configs/net.py'}, 'device': 'CPU', 'versions': {}, 'created': '2026-01-02T00:00:00',
        'results': {'train-time': {'mIoU': 55.5, 'mAcc': 60.0, 'aAcc': 90.0}},
    }  # fmt: skip
    (root / 'results/test.json').write_text(json.dumps(facts))
    text = tables.renew(page(root, 'results/test.json; rows: what; metrics: mIoU'), root)
    assert '| net | 55.5 % |' in text and 'CPU, 2026-01-02: `repvgg-seg test configs/net.py' in text
    del facts['device']  # as it was written before
    (root / 'results/test.json').write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"test\.json cannot be read \('device'\): measure it anew"):
        tables.renew(page(root, 'results/test.json; rows: what; metrics: mIoU'), root)


def test_what_cannot_be_made_is_named(root) -> None:
    with pytest.raises(ValueError, match='has no throughput'):
        tables.renew(page(root, 'results/r.json; rows: what; metrics: throughput'), root)
    with pytest.raises(ValueError, match='a table has rows, metrics and without, and no sort'):
        tables.renew(page(root, 'results/r.json; rows: what; metrics: work; sort: up'), root)
    with pytest.raises(FileNotFoundError, match=r'gone\.json'):
        tables.renew(page(root, 'results/gone.json; rows: what; metrics: work'), root)
    (root / 'results/old.json').write_text('{"benchmark": "peers", "rows": []}')
    with pytest.raises(ValueError, match=r'old\.json cannot be read \(a report of a benchmark has benchmark, command'):
        tables.renew(page(root, 'results/old.json; rows: what; metrics: work'), root)
    path = page(root, 'results/r.json; rows: what; metrics: work')
    path.write_text(path.read_text().replace('end of table', 'end'))
    with pytest.raises(ValueError, match=r"page\.md: a table that begins with .* does not end with '<!-- end of table"):
        tables.renew(path, root)
