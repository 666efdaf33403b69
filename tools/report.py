"""`repvgg-seg report` from a checkout: `python tools/report.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['report', *sys.argv[1:]]))
