"""`repvgg-seg benchmark` from a checkout: `python tools/benchmark.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['benchmark', *sys.argv[1:]]))
