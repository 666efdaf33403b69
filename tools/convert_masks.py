"""`repvgg-seg convert-masks` from a checkout: `python tools/convert_masks.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['convert-masks', *sys.argv[1:]]))
