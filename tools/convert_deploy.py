"""`repvgg-seg convert-deploy` from a checkout: `python tools/convert_deploy.py --help` lists its options."""

import sys

from repvgg_seg.cli import main

if __name__ == '__main__':
    sys.exit(main(['convert-deploy', *sys.argv[1:]]))
