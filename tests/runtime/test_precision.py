import re

import pytest
import torch

from repvgg_seg.deploy.export import TARGETS
from repvgg_seg.runtime import precision
from repvgg_seg.runtime.backends import BACKENDS, KINDS
from repvgg_seg.runtime.precision import PRECISIONS


@pytest.mark.parametrize('row', PRECISIONS.values(), ids=PRECISIONS)
def test_every_row_names_what_exists(row) -> None:
    assert isinstance(getattr(torch, row.dtype), torch.dtype)
    assert row.backends and set(row.backends) <= set(BACKENDS)
    assert row.max_rel > 0 and (row.max_rel < 1) == (row.name != 'int8') and re.compile(row.instructions)
    assert row.rest in ('', *PRECISIONS)


def test_a_file_is_written_in_what_its_backend_computes_in() -> None:
    assert {to: target.precisions for to, target in TARGETS.items()} == {
        'onnx': ['fp32', 'fp16', 'int8'],
        'openvino': ['fp32', 'fp16', 'bf16', 'int8'],
        'exported-program': ['fp32', 'fp16', 'bf16'],
    }
    for target in TARGETS.values():
        assert target.backend in KINDS[target.suffix][1]


@pytest.mark.parametrize(
    ('flags', 'fast'),
    [
        ([], {'fp32'}),
        (['avx512_vnni'], {'fp32', 'int8'}),
        (['amx_bf16', 'avx512_bf16'], {'fp32', 'bf16'}),  # Zen 4, Sapphire Rapids
        (['fphp', 'bf16', 'i8mm'], {'fp32', 'fp16', 'bf16', 'int8'}),  # ARM
    ],
)
def test_what_a_cpu_computes_in(flags: list[str], fast: set[str], monkeypatch) -> None:
    monkeypatch.setattr(precision, 'cpu', lambda: ('a CPU', flags))
    assert {name for name, row in PRECISIONS.items() if row.fast_on_this_cpu()} == fast
