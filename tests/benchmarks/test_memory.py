import torch

from repvgg_seg.benchmarks.memory import peak_memory


def test_memory_counts_what_was_touched_and_freed_again() -> None:
    kept = [torch.ones(2**22)]
    _, nothing = peak_memory(lambda: None)
    result, mib = peak_memory(lambda: float(torch.ones(2**25).sum()))
    assert result == 2**25 and kept
    assert 120 < mib < 170 and nothing < 16
