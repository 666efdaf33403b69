"""List the shipped configs, or write one as a single file that can be edited anywhere.

    repvgg-seg configs
    repvgg-seg configs pspnet_repvgg_a0_folder --out mine.py

The first lists the names that every command takes in place of a config file. The second writes a config and all that
it is based on as one file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..files import write_text
from ..terminal import say
from ..workflows.config import CONFIGS, load_config
from .config import add_cfg_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('name', nargs='?', help='one of them, or a config file')
    parser.add_argument('--out', metavar='FILE.py', help='write it there')
    add_cfg_options(parser)


def main(args: argparse.Namespace) -> None:
    """List, show or write.

    Raises:
        FileNotFoundError: there is no config of this name.
        ValueError: there is no name, or a file that is not to be overwritten.
    """
    if args.name is None:
        if args.out or args.cfg_options:
            raise ValueError('name the config to write: `repvgg-seg configs` lists them')
        say(f'{"config":<44}{"backbone":<24}data set')
        for path in sorted(CONFIGS.glob('*.py')):
            _, *backbone, dataset = path.stem.split('_')
            say(f'{path.stem:<44}{" ".join(backbone):<24}{dataset}')
        return
    text = load_config(args.name, args.cfg_options).pretty_text
    if not args.out:
        say(*text.splitlines())
        return
    if Path(args.out).suffix != '.py':
        raise ValueError(f'{args.out} is not a name for a config: it must end in .py')
    if Path(args.out).exists():
        raise ValueError(f'{args.out} is there already: choose another name, or remove it')
    write_text(f'# {args.name} of repvgg-seg, with all that it is based on.\n{text}', args.out)
    say(f'wrote {args.out}: repvgg-seg train {args.out}')
