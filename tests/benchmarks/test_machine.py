import torch

from repvgg_seg.benchmarks.machine import describe_machine, gemm_peak


def test_the_description_names_what_is_installed_only() -> None:
    machine = describe_machine('numpy', 'no-such-distribution')
    assert set(machine) == {'device', 'threads', 'versions', 'date'} and machine['threads'] >= 1
    assert set(machine['versions']) == {'python', 'torch', 'numpy'}


def test_the_peak_counts_both_operations(monkeypatch) -> None:
    from repvgg_seg.benchmarks import machine
    from repvgg_seg.benchmarks.timing import Latency

    fixed = Latency(2, 3, 4, 1)
    monkeypatch.setattr(machine, 'measure_latency', lambda candidates, **_: dict.fromkeys(candidates, fixed))
    assert gemm_peak([torch.float32], size=100)[torch.float32] == 2 * 100**3 / 2e-3 / 1e9
