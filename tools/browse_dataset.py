"""`repvgg-seg browse-dataset` from a checkout: `python tools/browse_dataset.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['browse-dataset', *sys.argv[1:]]))
