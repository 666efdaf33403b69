"""The arguments CONFIG and --cfg-options."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mmengine.config import DictAction


def option(text: str) -> str:
    """Read one KEY=VALUE of --cfg-options.

    Raises:
        ArgumentTypeError: it has no `=`.
    """
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form KEY=VALUE')
    return text


class _Options(DictAction):
    """mmengine's reading of values, which leaves paths as they are written, whatever characters they hold."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip('\'"')
        value = DictAction._parse_iterable(val) if _balanced(val) else text
        if isinstance(value, (list, tuple)):
            return text if os.path.lexists(text) else value
        return text if isinstance(value, str) or ' ' in text else value


def _balanced(text: str) -> bool:
    return all(text.count(left) == text.count(right) for left, right in ('()', '[]'))


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Declare --cfg-options."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=option,
        action=_Options,
        default={},
        metavar='KEY=VALUE',
        help='change config values, e.g. data_root=DIR train_cfg.max_iters=100',
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare CONFIG and --cfg-options."""
    parser.add_argument('config', help='config file, or the name of a shipped one: see `repvgg-seg configs`')
    add_cfg_options(parser)
