"""`repvgg-seg download-weights` from a checkout: `python tools/download_weights.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['download-weights', *sys.argv[1:]]))
