"""`repvgg-seg export` from a checkout: `python tools/export.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['export', *sys.argv[1:]]))
