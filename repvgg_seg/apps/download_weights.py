"""Download released ImageNet weights, or say what there is and whether it is whole.

    python tools/download_weights.py RepVGG-A0 RepVGG-B2
    python tools/download_weights.py --list
    python tools/download_weights.py --verify

Files go to the first folder of $REPVGG_SEG_WEIGHTS, else to pretrained/ of the checkout, else to the user's
cache. $REPVGG_SEG_MIRROR replaces the server: the address of a folder that holds files of the same names.
"""

from __future__ import annotations

import argparse

from ..files import FileError
from ..terminal import say
from ..weights import pretrained
from ..weights.pretrained import SCHEME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('names', metavar='NAME', nargs='*', help='released weights, such as RepVGG-B2 (see --list)')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--all', action='store_true', help='download everything that has a direct download (about 5 GB)')
    what.add_argument('--list', action='store_true', help='list all released weights and where they are here')
    what.add_argument('--verify', action='store_true', help='check size and SHA-256 of the named files, or of all here')


def main(args: argparse.Namespace) -> None:
    """Download, list or verify.

    Raises:
        FileError: something could not be downloaded, or is not whole.
        ValueError: nothing is asked for.
    """
    releases = pretrained.manifest()
    if args.list:
        say(f'{"name":<28}{"top-1":>7}  {"recipe":<58}here')
        for name, release in releases.items():
            found = pretrained.find(name)
            where = str(found[1]) if found else '-' if any(f.url for f in release.files) else '- (by hand only)'
            say(f'{name:<28}{release.top1:>7.2f}  {release.recipe:<58}{where}')
        say(f'Looked for in {", ".join(map(str, pretrained.folders()))}.')
        return

    names = [name.removeprefix(SCHEME) for name in args.names]
    if args.all:
        names = [name for name, release in releases.items() if any(file.url for file in release.files)]
    elif args.verify and not names:
        names = [name for name in releases if pretrained.find(name)]
    if not names:
        if args.verify:
            say('there are no released weights here to verify')
            return
        raise ValueError('name the weights to download, or pass --all or --list')
    failures = []
    for name in names:
        try:
            if args.verify and name in releases and not pretrained.find(name):
                raise FileError(f'{name} is not here: download it first')
            say(f'{name}: {pretrained.resolve(SCHEME + name)}')
        except FileError as error:  # the others may still work
            failures.append(str(error))
            say(f'{name}: failed', error=True)
    if failures:
        raise FileError('; '.join(failures))
