"""`repvgg-seg import-labels` from a checkout: `python tools/import_labels.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['import-labels', *sys.argv[1:]]))
