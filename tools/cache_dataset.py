"""`repvgg-seg cache-dataset` from a checkout: `python tools/cache_dataset.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['cache-dataset', *sys.argv[1:]]))
