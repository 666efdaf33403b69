"""The page on reliability says what was measured, and nothing was lost or executed."""

from __future__ import annotations

import json

from tests.faults.report import PAGE, RESULTS, page


def test_the_page_is_that_of_the_results_and_nothing_was_lost() -> None:
    rows = json.loads(RESULTS.read_text())['rows']
    assert PAGE.read_text() == page(rows)
    assert all(row['lost'] == row['executed'] == 0 and row['tried'] == row['survived'] + row['refused'] for row in rows)
