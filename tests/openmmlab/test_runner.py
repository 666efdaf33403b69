from types import SimpleNamespace

import mmengine.runner
import pytest
import torch
from mmengine.config import Config
from torch import nn

from repvgg_seg.openmmlab.runner import ChannelsLastHook, Runner


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
