"""`repvgg-seg train` from a checkout: `python tools/train.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
