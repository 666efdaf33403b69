"""`repvgg-seg publish` from a checkout: `python tools/publish.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['publish', *sys.argv[1:]]))
