"""`repvgg-seg predict` from a checkout: `python tools/predict.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['predict', *sys.argv[1:]]))
