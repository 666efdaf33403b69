"""`repvgg-seg test` from a checkout: `python tools/test.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['test', *sys.argv[1:]]))
