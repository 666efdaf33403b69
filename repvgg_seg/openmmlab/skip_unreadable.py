"""Unreadable files: a training skips them and reports them, an evaluation refuses them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from ..data.samples import damage
from ..files import write_text
from .datasets import inner_data_sets
from .runner import Runner

LIST = 'unreadable_files.txt'  # in the work directory; one file a line, with what is wrong with it
MAX_BAD_SHARE = 0.01


def max_bad_share(cfg: Config) -> float:
    """Return which share of the training samples may be unreadable, by `cfg` or by default.

    Raises:
        ValueError: it is not a share.
    """
    share = cfg.get('max_bad_share', MAX_BAD_SHARE)
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ValueError(f'max_bad_share={share!r} is not a share of the training samples: give a number from 0 to 1')
    return share


@dataclass(frozen=True)
class Ledger:
    """The files that a training skips: a list on disk, which the workers of all processes append to.

    A line is short enough to be appended in one piece. Two workers that meet the same file at once may both list it;
    it still counts as one.
    """

    path: Path
    samples: int
    max_bad_share: float

    @property
    def allowed(self) -> int:
        """How many samples may be unreadable: at least one, unless the share is 0."""
        return max(int(self.max_bad_share * self.samples), 1) if self.max_bad_share else 0

    def files(self) -> dict[str, str]:
        """Return the files listed so far, and why each cannot be read."""
        lines = self.path.read_text('utf-8', 'surrogateescape').split('\n') if self.path.is_file() else []
        return dict(line.split('\t', 1) for line in lines if '\t' in line)

    def begin(self, *, resumed: bool) -> None:
        """Start an empty list or, for a resumed training, keep those files that still cannot be read."""
        known = self.files() if resumed else {}
        still = {file: why for file in known if (why := damage(file))}
        if still != known or not resumed:
            self.path.unlink(missing_ok=True)
            if still:
                write_text(''.join(f'{file}\t{why}\n' for file, why in still.items()), self.path)

    def add(self, file: str, why: str) -> None:
        """List an unreadable file.

        Raises:
            ValueError: there are more of them than allowed.
        """
        if file not in self.files():
            with open(self.path, 'a', encoding='utf-8', errors='surrogateescape') as stream:
                stream.write(f'{file}\t{why}\n')
        bad = self.files()
        if len(bad) > self.allowed:
            shown = '; '.join(f'{file} {why}' for file, why in list(bad.items())[:10])
            raise ValueError(
                f'{len(bad)} of {self.samples} training samples cannot be read, more than max_bad_share='
                f'{self.max_bad_share:g} allows: {shown}{"; …" if len(bad) > 10 else ""}. {self.path} lists them: copy '
                'them again or remove them, and go on with --resume'
            )


@dataclass(frozen=True)
class GuardedPipeline:
    """A pipeline that returns None for a sample with an unreadable file, so that mmengine takes another sample.

    Without a ledger, in validation and test, the file is an error that names it. Other failures stay as they are.
    """

    pipeline: Compose
    ledger: Ledger | None

    def __call__(self, info: dict[str, Any]) -> Any:
        """Load and transform one sample."""
        files = [info[key] for key in ('img_path', 'seg_map_path') if info.get(key)]
        try:
            return self.pipeline(info)
        except Exception as error:
            broken = [(file, why) for file in files if (why := damage(file))]
            if not broken:
                raise
            file, why = broken[0]
            if self.ledger is None:
                raise ValueError(
                    f'{file} cannot be read ({why}), and without it the result would be another: copy it again, or '
                    'remove image and mask'
                ) from error
            self.ledger.add(file, why)
            return None


class SkippedFilesHook(Hook):
    """Logs each file that a training skips, once, and how many there were at the end."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.reported: set[str] = set()
        self.size = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Log what the workers have listed since the last iteration."""
        if not is_main_process() or (size := _size(self.ledger.path)) == self.size:
            return
        self.size = size
        for file, why in self.ledger.files().items():
            if file not in self.reported:
                self.reported.add(file)
                runner.logger.warning(  # its text in full: mmengine leaves out a warning of the same template
                    f'skipped: {file} {why} ({len(self.reported)} of {self.ledger.samples} samples; '
                    f'{self.ledger.allowed} may be unreadable)'
                )

    def after_train(self, runner: Runner) -> None:
        """Sum up."""
        if is_main_process() and self.reported:
            runner.logger.warning(
                '%d of %d training samples were skipped, because they cannot be read: %s',
                len(self.reported), self.ledger.samples, self.ledger.path,
            )  # fmt: skip


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class GuardedRunner(Runner):
    """mmengine's runner, whose training skips unreadable files, up to `max_bad_share` of the config.

    They are replaced by other samples and listed in the work directory. In validation and test they are errors.
    """

    def build_dataloader(self, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader that is guarded; its workers have not started yet."""
        loader: Any = super().build_dataloader(dataloader, *args, **kwargs)
        datasets = [part for part in inner_data_sets(loader.dataset) if isinstance(part, BaseDataset)]
        ledger = None
        if self._training:
            if not len(loader) and not getattr(loader.sampler, 'endless', False):
                raise ValueError(
                    f'{len(loader.dataset)} training images make no batch of {loader.batch_sampler.batch_size}: set '
                    '--cfg-options train_dataloader.batch_size=N to fewer'
                )
            ledger = Ledger(Path(self.work_dir, LIST), sum(map(len, datasets)), max_bad_share(self.cfg))
            if is_main_process():
                ledger.begin(resumed=self.cfg.get('resume', False))
            barrier()
            self.register_hook(SkippedFilesHook(ledger))
        for dataset in datasets:
            dataset.pipeline = GuardedPipeline(dataset.pipeline, ledger)
        return loader
