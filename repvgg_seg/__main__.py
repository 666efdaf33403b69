"""`python -m repvgg_seg`: the command `repvgg-seg`."""

import sys

from .cli import main

if __name__ == '__main__':
    sys.exit(main())
