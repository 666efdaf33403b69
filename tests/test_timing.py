import pytest

from repvgg_seg import timing as latency
from repvgg_seg.timing import measure_latency


def test_candidates_take_turns_and_warm_up_rounds_do_not_count(monkeypatch) -> None:
    clock, calls = [0.0], []

    def candidate(name: str, seconds: list[float]):
        def run() -> None:
            calls.append(name)
            clock[0] += seconds.pop(0)

        return run

    monkeypatch.setattr(latency.time, 'perf_counter', lambda: clock[0])
    result = measure_latency(
        {'a': candidate('a', [9.0, 0.003, 0.001, 0.002]), 'b': candidate('b', [9.0, 0.04, 0.06, 0.05])},
        runs=3,
        warmup=1,
    )
    assert ''.join(calls) == 'abababab'
    assert result['a'].p50_ms == pytest.approx(2) and result['a'].p95_ms == pytest.approx(3)
    assert result['b'].p50_ms == pytest.approx(50) and result['b'].runs == 3


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match='at least one candidate and one run'):
        measure_latency({})
    with pytest.raises(ValueError, match='at least one candidate and one run'):
        measure_latency({'a': lambda: None}, runs=0)
