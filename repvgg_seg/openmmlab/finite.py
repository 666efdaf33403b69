"""A training that diverges is stopped before its weights are spoilt, and says where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from ..weights.checkpoint_io import not_finite
from .work_dir import last_good

SHOWN = 16  # images of a batch that are named


class FiniteHook(Hook):
    """Logs the norm of the gradients, and lets no step be taken and no checkpoint be saved that is not finite.

    Up to `max_skipped` such steps of a run are left out, with what they did to the statistics of batch norms; one
    more ends it.
    """

    priority = 'VERY_HIGH'  # before averages are updated and checkpoints are saved

    def __init__(self, max_skipped: int = 0) -> None:
        self.max_skipped = max_skipped
        self._images: list[str] = []
        self._told = False
        self._buffers: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Look at each step of the optimizer before it is taken."""
        wrapper = runner.optim_wrapper
        scaled = hasattr(wrapper, 'loss_scaler') and getattr(wrapper.optimizer, '_step_supports_amp_scaling', False)
        if not scaled:  # else the optimizer itself divides by the scale, and leaves out what overflowed
            wrapper.optimizer.register_step_pre_hook(partial(self._before_step, runner))
        self._keep_buffers(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the names of the images that make the next step."""
        first = runner.optim_wrapper.should_update()
        self._images, self._told = [*([] if first else self._images), *_images(data_batch)], False

    def _before_step(self, runner: Runner, optimizer: Optimizer, args: object, kwargs: object) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).item()
        clip = runner.optim_wrapper.clip_grad_kwargs
        if not clip or 'max_norm' not in clip:  # else mmengine has logged what it was before it was clipped
            runner.message_hub.update_scalar('train/grad_norm', norm)
        if math.isfinite(norm):
            self._keep_buffers(runner)
            return
        # All processes have the same gradients, which may come from the images of any of them.
        names = [name for names in all_gather_object(self._images) for name in names]
        self._tell(runner, f'the norm of the gradients became {norm}', names)
        for parameter in parameters:
            parameter.grad = None  # the optimizer leaves out what has none
        self._restore_buffers(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Look at the loss, for gradients that are scaled or accumulated may not be looked at."""
        loss = (outputs or {}).get('loss')
        if self._told or loss is None or loss.isfinite().all():
            return
        if not self.max_skipped or runner.optim_wrapper.should_update():
            self._tell(runner, f'the loss became {loss.item()}', _images(data_batch))
            self._restore_buffers(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse to save what is not finite.

        Raises:
            ValueError: it is not.
        """
        if bad := not_finite({key: checkpoint.get(key) for key in ('state_dict', 'optimizer')}):
            raise ValueError(self._sentence(runner, f'{bad} is not finite, and is not saved,', []))

    def _tell(self, runner: Runner, what: str, images: Sequence[str]) -> None:
        """Tell of a step that is left out.

        Raises:
            ValueError: it is one too many.
        """
        self._told = True
        skipped = int(runner.message_hub.runtime_info.get('skipped_steps', 0)) + 1
        if skipped > self.max_skipped:
            raise ValueError(self._sentence(runner, what, images))
        runner.message_hub.update_info('skipped_steps', skipped)
        runner.logger.warning(  # its text in full: mmengine leaves out a warning of the same template
            f'{what} in iteration {runner.iter + 1}{_shown(images)}: this step is left out, {skipped} of '
            f'max_skipped_steps={self.max_skipped}'
        )

    def _sentence(self, runner: Runner, what: str, images: Sequence[str]) -> str:
        return (
            f'{what} in iteration {runner.iter + 1}{_shown(images)}: {last_good(runner.work_dir)}; look at these '
            'images, resume without --amp, limit gradients with --cfg-options optim_wrapper.clip_grad.max_norm=10, '
            'leave such steps out with max_skipped_steps=10, or begin anew with a lower optim_wrapper.optimizer.lr'
        )

    def _keep_buffers(self, runner: Runner) -> None:
        if self.max_skipped:
            self._buffers = [buffer.clone() for buffer in runner.model.buffers()]

    def _restore_buffers(self, runner: Runner) -> None:
        for buffer, kept in zip(runner.model.buffers(), self._buffers, strict=False):
            buffer.copy_(kept)


def _images(batch: Any) -> list[str]:
    """Return the files of a batch, of a segmentor or of pretraining."""
    if not isinstance(batch, dict):
        return []
    samples = batch.get('data_samples') or batch.get('name') or ()
    return [str(getattr(sample, 'img_path', sample)) for sample in samples]


def _shown(images: Sequence[str]) -> str:
    more = f' and {len(images) - SHOWN} more' if len(images) > SHOWN else ''
    return f' ({", ".join(images[:SHOWN])}{more})' if images else ''
