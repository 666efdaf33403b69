"""`repvgg-seg check-dataset` from a checkout: `python tools/check_dataset.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['check-dataset', *sys.argv[1:]]))
