"""`repvgg-seg quantize` from a checkout: `python tools/quantize.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['quantize', *sys.argv[1:]]))
