"""`repvgg-seg demo-data` from a checkout: `python tools/make_demo_data.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['demo-data', *sys.argv[1:]]))
