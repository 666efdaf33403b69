"""ImageNet pretraining on mmengine's runner: the model, exactly resumable epochs, averaged weights, top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast, get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.runner import EpochBasedTrainLoop
from mmseg.registry import DATA_SAMPLERS, DATASETS, HOOKS, LOOPS, METRICS, MODELS
from torch import Tensor, nn

from ..models.classifier import RepVGGClassifier
from ..models.variants import Variant
from ..pretrain import data
from ..pretrain.objective import Objective, normalise
from .runner import Runner

DATASETS.register_module(module=data.ImageNet)


@MODELS.register_module()
class PretrainingModel(BaseModel):
    """A classifier and its objective, as mmengine's runner trains them; the weights are under `model.`.

    Takes the arguments of Objective beside the classifier's. `compiled` compiles the network, and not the whole step
    as mmengine's `compile` does, which would compile the optimizer anew for each learning rate.
    """

    def __init__(
        self,
        arch: str | Variant,
        num_classes: int = 1000,
        *,
        with_cp: bool = False,
        compiled: bool = False,
        **objective: Any,
    ) -> None:
        super().__init__(BaseDataPreprocessor(non_blocking=True))
        self.model = RepVGGClassifier(arch, num_classes, with_cp=with_cp)
        if compiled:
            self.model.forward_aux = torch.compile(self.model.forward_aux)  # type: ignore[method-assign]
        self.objective = Objective(num_classes, **objective)

    @property
    def custom_l2(self) -> float:
        """The weight decay that the objective takes over from the optimizer: see RepVGGOptimWrapperConstructor."""
        return self.objective.custom_l2

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = 'predict') -> Any:
        """Return the losses in mode 'loss'; otherwise, for each image, its label and its best five classes."""
        if mode == 'loss':
            return self.objective(self.model, inputs, labels)
        logits = self.model(normalise(inputs))
        best = logits.topk(min(5, logits.shape[1])).indices
        return list(zip(labels.tolist(), best.tolist(), strict=True))


@METRICS.register_module()
class TopK(BaseMetric):
    """Top-1 and top-5 accuracy in percent."""

    default_prefix = 'accuracy'

    def process(self, data_batch: Any, data_samples: Sequence[tuple[int, list[int]]]) -> None:
        """Note for each image whether its class is the best, and whether it is among the best five."""
        self.results += [(label == best[0], label in best) for label, best in data_samples]

    def compute_metrics(self, results: list[tuple[bool, bool]]) -> dict[str, float]:
        """Return the shares."""
        top1, top5 = (100 * sum(hits) / len(results) for hits in zip(*results, strict=True))
        return {'top1': top1, 'top5': top5}


@DATA_SAMPLERS.register_module()
class GlobalBatchSampler(data.GlobalBatchSampler):
    """The sampler of pretraining, which takes its share of the images from the process group."""

    def __init__(self, dataset: data.ImageNet, batch_size: int, seed: int) -> None:
        super().__init__(len(dataset), batch_size, seed=seed, rank=get_rank(), world_size=get_world_size())


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Epochs that continue after an interruption at any iteration as if there had been none; keeps the last `metrics`.

    All that is random is a function of the seed and of the position in the training: the order of the images and their
    augmentation through GlobalBatchSampler, mixup through the seed that each iteration begins with.
    """

    def run(self) -> nn.Module:
        """Train from the iteration that was resumed, if any."""
        sampler, per_epoch = self.dataloader.sampler, len(self.dataloader)
        sampler.seed = self.runner.seed  # a resumed run has the seed of its beginning
        self._epoch, sampler.first_batch = divmod(self._iter, per_epoch)
        self.metrics: dict[str, float] = {}
        self.runner.call_hook('before_train')
        while self._epoch < self._max_epochs:
            sampler.epoch = self._epoch
            self.run_epoch()
            sampler.first_batch = 0
            if self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs:
                self.metrics = self.runner.val_loop.run()
        self.metrics = self.metrics or self.runner.val_loop.run()  # where a finished training was resumed
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Make one step; `idx` counts from where the epoch was entered."""
        with data.seeded(data.mixed(self.runner.seed, self._iter, get_rank())):
            super().run_iter(self._iter % len(self.dataloader), data_batch)


@HOOKS.register_module()
class AveragedWeightsHook(EMAHook):
    """Averages the weights without changing the training, and validates both kinds, the averaged ones as `ema/…`."""

    def before_val_epoch(self, runner: Runner) -> None:
        """Leave the weights of the last step in place, with the first process' statistics: those that are saved."""
        for model in (self.src_model, self.ema_model):
            for buffer in model.buffers():
                broadcast(buffer)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics of the averaged weights."""
        self._swap_ema_parameters()
        loop = runner.val_loop
        with torch.no_grad():
            for batch in loop.dataloader:
                loop.evaluator.process(data_samples=self.src_model.val_step(batch), data_batch=batch)
        averaged = loop.evaluator.evaluate(len(loop.dataloader.dataset))
        self._swap_ema_parameters()
        for name, value in averaged.items():
            runner.message_hub.update_scalar(f'val/ema/{name}', value)
            if metrics is not None:
                metrics[f'ema/{name}'] = value


@HOOKS.register_module()
class PretrainingHook(Hook):
    """Logs images per second, keeps what a resumed run must have in common, and stops when the loss diverges."""

    def __init__(self, identity: dict[str, Any], batch: int, interval: int = 50) -> None:
        # Plain data: the dictionaries of a config are objects, and a checkpoint with objects runs code when it is read.
        self.identity, self.batch, self.interval = dict(identity), batch, interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Log, and check the loss every `interval` iterations: looking at it waits for the GPU.

        Raises:
            ValueError: it is not finite; names the last good checkpoint.
        """
        seconds = runner.message_hub.get_scalar('train/time').current()
        runner.message_hub.update_scalar('train/images_per_s', self.batch / seconds)
        if outputs and self.every_n_train_iters(runner, self.interval) and not outputs['loss'].isfinite().all():
            raise ValueError(self._diverged(runner, f'the loss became {outputs["loss"].item()}'))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse to save weights that are not finite, and note what they belong to.

        Raises:
            ValueError: they are not.
        """
        for key, value in checkpoint['state_dict'].items():
            if not value.isfinite().all():
                raise ValueError(self._diverged(runner, f'{key.removeprefix("model.")} is not finite'))
        checkpoint['meta']['pretraining'] = self.identity

    @staticmethod
    def _diverged(runner: Runner, what: str) -> str:
        pointer = Path(runner.work_dir, 'last_checkpoint')
        good = f'the last good checkpoint is {pointer.read_text()}' if pointer.is_file() else 'no checkpoint is good'
        return (
            f'{what} by iteration {runner.iter + 1}: {good}; resume without --amp, or begin anew with a lower '
            'optim_wrapper.optimizer.lr'
        )
