"""`repvgg-seg pretrain-imagenet` from a checkout: `python tools/pretrain_imagenet.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['pretrain-imagenet', *sys.argv[1:]]))
