"""`repvgg-seg make-train-ids` from a checkout: `python tools/make_train_ids.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['make-train-ids', *sys.argv[1:]]))
