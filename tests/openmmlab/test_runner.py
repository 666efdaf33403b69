import re
from types import SimpleNamespace

import mmengine.runner
import pytest
import torch
from mmengine.config import Config
from torch import nn

from repvgg_seg.openmmlab.runner import ChannelsLastHook, Runner
from tests.conftest import tool


@pytest.mark.parametrize('hooks', [[{'type': 'ChannelsLastHook'}], [], None])
def test_the_layout_is_chosen_before_the_model_is_distributed(hooks, monkeypatch) -> None:
    """After, the gradients of 3x3 convolutions would come back permuted; test_pretraining compares two processes."""
    seen = []

    def wrap(self, cfg, model):
        seen.append(model.weight.is_contiguous(memory_format=torch.channels_last))
        return model

    monkeypatch.setattr(mmengine.runner.Runner, 'wrap_model', wrap)
    runner = Runner.__new__(Runner)
    runner.cfg = Config({'custom_hooks': hooks})
    runner.wrap_model(None, nn.Conv2d(4, 4, 3))
    assert seen == [bool(hooks)]


def test_the_hook_converts_what_is_not_distributed_and_refuses_what_another_runner_distributed() -> None:
    model = nn.Conv2d(4, 4, 3)
    ChannelsLastHook().before_run(SimpleNamespace(model=model))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match='ChannelsLastHook came after the model was distributed: use repvgg_seg'):
        ChannelsLastHook().before_run(SimpleNamespace(model=nn.DataParallel(model)))
    runner = Runner.__new__(Runner)
    runner.model = nn.DataParallel(model)
    ChannelsLastHook().before_run(runner)


def test_the_terminal_gets_what_people_read_and_the_file_gets_all(tiny_config, tmp_path, capsys) -> None:
    argv = [str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', 'train_cfg.max_iters=2']
    assert tool('train')(argv) == 0
    streams = capsys.readouterr()
    shown = streams.out + streams.err
    (log,) = tmp_path.rglob('*.log')
    assert 'Iter(train) [2/2]' in shown and re.search(r'\| +road +\|', shown) and len(shown.splitlines()) < 80
    assert 'optim_wrapper = dict(' in log.read_text() and 'optim_wrapper = dict(' not in shown
    assert 'Hooks will be executed' in log.read_text() and 'Hooks will be executed' not in shown
