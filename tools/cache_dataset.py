"""Decode a config's training images and masks once, so that training maps them into memory instead of decoding PNGs.

    python tools/cache_dataset.py configs/pspnet_repvgg_b2_cityscapes.py

Writes to .decoded in the folder of the data set: 8.4 MB a sample of 2048x1024 pixels, 25 GB for Cityscapes' training
set. It says how much before it begins, and refuses what the disk has no room for; to use another disk, make .decoded a
link to a folder there. Killed, the next call goes on. A training sees by size and time of change what is new in the
data set and decodes it as ever, until the next call renews the cache; --verify compares all hashes instead. To be rid
of the cache, remove the folder.
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import add_cfg_options, command


@command
def main(argv: list[str] | None = None) -> None:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--verify', action='store_true', help='check all that is there by its hashes')
    parser.add_argument('--workers', type=int, metavar='N', help='number of threads (default: one for each processor)')
    add_cfg_options(parser, DictAction)
    args = parser.parse_args(argv)
    from repvgg_seg.apps.cache_dataset import build_cache, plan_cache
    from repvgg_seg.apps.config import load_config

    plan = plan_cache(load_config(args.config, args.cfg_options), verify=args.verify)
    print(
        f'{plan.folder}: {plan.present} files are cached, {len(plan.missing)} are not and will take '
        f'{plan.bytes / 1e9:.2f} GB of {plan.free / 1e9:.1f} GB that are free'
    )
    build_cache(plan, workers=args.workers)
    print(f'all {plan.present + len(plan.missing)} files are cached')


if __name__ == '__main__':
    sys.exit(main())
