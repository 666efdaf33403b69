"""mmengine's runner, with the config in each checkpoint and weights in the layout in which convolutions are fastest."""

from __future__ import annotations

import ast
import logging
from functools import partial
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from mmseg.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from .finite import FiniteHook
from .loops import RESUMABLE, placed, quiet_worker
from .work_dir import RUN, RUN_KEY

CONFIG_KEY = 'resolved_config'  # in the meta data of a checkpoint
# What differs from one start of the same training to the next.
_OF_ONE_START = ('launcher', 'load_from', 'resume', 'work_dir')


def config_to_text(cfg: Config) -> str:
    """Return a config as the text of a Python literal, which is read without running anything.

    Raises:
        ValueError: it holds something else than numbers, texts, lists, tuples and dictionaries.
    """
    plain = cfg.to_dict()
    for key in _OF_ONE_START:
        plain.pop(key, None)
    text = repr(plain)
    try:
        same = ast.literal_eval(text) == plain
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise ValueError('the config holds objects that are not plain data')
    return text


def config_from_text(text: str) -> Config:
    """Read what `config_to_text` returned.

    Raises:
        ValueError: it is not that.
    """
    try:
        plain = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError('the recorded config cannot be read') from error
    if not isinstance(plain, dict):
        raise ValueError('the recorded config is not a dictionary')
    return Config(plain)


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Store the model's weights channels_last, in which convolutions on CPUs and on tensor cores are fastest."""

    def before_run(self, runner: mmengine.runner.Runner) -> None:
        """Convert the model; its activations follow the weights' layout.

        Raises:
            ValueError: the model is distributed already, by another runner than ours.
        """
        if not is_model_wrapper(runner.model):
            runner.model.to(memory_format=torch.channels_last)
        elif not isinstance(runner, Runner):
            raise ValueError(
                'ChannelsLastHook came after the model was distributed: use repvgg_seg.openmmlab.runner.Runner, '
                'or leave the hook out'
            )


# What mmengine's own parts warn of in each run, which no user of ours can change.
_NOISE = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias', 'The prefix is not set in metric class')


def is_for_people(record: logging.LogRecord) -> bool:
    """Tell whether a record belongs on the terminal: not so dumps of configs, hooks and environments.

    The log file has them all, and tables are for people too.
    """
    text = record.getMessage()
    if record.levelno >= logging.WARNING:
        return not text.startswith(_NOISE)
    return text.count('\n') < 3 or text.startswith('\n+--')


class Runner(mmengine.runner.Runner):
    """mmengine's runner, which resumes exactly, keeps nothing that is not finite and remembers the config.

    It asks for channels_last before it distributes.
    DistributedDataParallel lays its buffers out like the weights that it is given. Where the weights' layout changes
    later, the gradients of convolutions come back with their elements permuted (seen in torch 2.15).
    """

    _training = False

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Register the hooks of the config, and the one that watches over what is not finite."""
        super().register_hooks(*args, **kwargs)
        self.register_hook(FiniteHook(self.cfg.get('max_skipped_steps', 0)))

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop and, for its data alone, samples that are a function of their place in the training."""
        if isinstance(loop, dict):
            kind = loop.get('type', 'EpochBasedTrainLoop' if loop.get('by_epoch') else 'IterBasedTrainLoop')
            loop = {**{key: loop[key] for key in loop if key != 'by_epoch'}, 'type': RESUMABLE.get(kind, kind)}
        self._training = True
        try:
            return super().build_train_loop(loop)
        finally:
            self._training = False

    def build_dataloader(self, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader, whose workers have not started yet."""
        if isinstance(dataloader, dict) and self._training:
            dataloader = placed(dataloader)
        loader = mmengine.runner.Runner.build_dataloader(dataloader, *args, **kwargs)
        loader.worker_init_fn = partial(quiet_worker, init=loader.worker_init_fn)
        return loader

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger, whose terminal gets what people read, and whose file gets all."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_for_people)
        return logger

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Build the visualizer, of this run alone: mmengine's would be the first run's in a process with several."""
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, 'name': f'{visualizer.get("name", "")} {self.log_dir}'}
        return super().build_visualizer(visualizer)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Return `model`, on its device and in its layout, wrapped if there are several processes."""
        if any(hook['type'] == 'ChannelsLastHook' for hook in self.cfg.get('custom_hooks') or ()):
            model = model.to(memory_format=torch.channels_last)
        return super().wrap_model(model_wrapper_cfg, model)

    def save_checkpoint(self, *args: Any, meta: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Save a checkpoint that holds the resolved config, so that it can be converted and evaluated by itself."""
        try:
            recorded = {CONFIG_KEY: config_to_text(self.cfg)}
        except ValueError as error:  # the weights matter more
            self.logger.warning('the checkpoint does not hold its config: %s', error)
            recorded = {}
        run = Path(self.work_dir, RUN)
        if run.is_file():
            recorded[RUN_KEY] = run.read_text()
        super().save_checkpoint(*args, meta={**(meta or {}), **recorded}, **kwargs)
