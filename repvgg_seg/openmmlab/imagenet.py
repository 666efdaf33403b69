"""ImageNet pretraining on mmengine's runner: the model, averaged weights, top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import broadcast, get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmseg.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS
from torch import Tensor

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

    def forward(self, inputs: Tensor, labels: Tensor, name: Sequence[str] = (), mode: str = 'predict') -> Any:
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

    places = True  # it yields the seeds of augmentations itself, the same however many processes share an epoch

    def __init__(self, dataset: data.ImageNet, batch_size: int, seed: int) -> None:
        super().__init__(len(dataset), batch_size, seed=seed, rank=get_rank(), world_size=get_world_size())


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
    """Logs images per second, keeps the last `metrics`, and notes what a resumed run must have in common."""

    def __init__(self, identity: dict[str, Any], batch: int) -> None:
        # Plain data: what came through a config would make a checkpoint that runs code to be read.
        self.identity, self.batch = dict(identity), batch
        self.metrics: dict[str, float] = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Log."""
        seconds = runner.message_hub.get_scalar('train/time').current()
        runner.message_hub.update_scalar('train/images_per_s', self.batch / seconds)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics, to which AveragedWeightsHook adds."""
        self.metrics = metrics or {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note what the weights belong to."""
        checkpoint['meta']['pretraining'] = self.identity
