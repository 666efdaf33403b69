"""Processes that torchrun started end together: after a signal, and when torchrun is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
import torch
torch.set_num_threads(1)
torch.distributed.init_process_group('gloo')
from repvgg_seg.interruption import Interrupted, end_with_torchrun
from tests.openmmlab.test_loops import runner
end_with_torchrun()
try:
    runner(
        sys.argv[1], each=lambda run: time.sleep(0.2), launcher='pytorch',
        train_cfg=dict(by_epoch=False, max_iters=2000),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5000)),
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
    ).train()
except Interrupted as stop:
    print(stop, flush=True)
    sys.exit(128 + stop.signum)
"""


@pytest.mark.faults
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_all_processes_end_after_the_same_iteration_and_save(repo, tmp_path, signum: int) -> None:
    (tmp_path / 'script.py').write_text(SCRIPT)
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    with open(tmp_path / 'log', 'w') as log:
        process = subprocess.Popen(
            [*torchrun, str(tmp_path / 'script.py'), str(tmp_path / 'w')],
            stdout=log, stderr=log, cwd=repo, env={**os.environ, 'PYTHONPATH': str(repo)},
        )  # fmt: skip

    def told() -> str:
        return (tmp_path / 'log').read_text()

    def wait_for(pattern: str, count: int = 1) -> None:
        end = time.monotonic() + 240
        while len(re.findall(pattern, told())) < count:
            assert time.monotonic() < end, told()[-3000:]
            time.sleep(0.2)

    wait_for(r'\[ *10/')
    process.send_signal(signum)
    process.wait(240)
    wait_for(r'stopped by SIG\w+; saved .*/iter_\d+\.pth', 2)
    (saved,) = set(re.findall(r'saved .*/(iter_\d+\.pth)', told()))
    assert [path.name for path in Path(tmp_path / 'w').glob('*.pth')] == [saved]
