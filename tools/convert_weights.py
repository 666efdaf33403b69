"""`repvgg-seg convert-weights` from a checkout: `python tools/convert_weights.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['convert-weights', *sys.argv[1:]]))
