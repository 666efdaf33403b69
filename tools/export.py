"""Export a converted segmentor to one file that runs without this package, and prove that it is the same function.

    python tools/export.py work_dirs/demo/deploy --to onnx
    python tools/export.py work_dirs/demo/deploy --to openvino --size 512x1024 --precision bf16

The file takes uint8 RGB images (N, H, W, 3) and returns class indices (N, H, W); classes, palette, size, versions and
the hash of the weights are inside it. Beside it, FILE.report.json tells how far it is from the original; a file that
is further off than it may be is not written. For TensorRT: tools/build_tensorrt.py on the ONNX file.
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import command, image_size
from repvgg_seg.runtime.metadata import DYNAMIC, OUTPUTS, PRECISIONS


def batch(text: str) -> int | None:
    if text == DYNAMIC:
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number nor {DYNAMIC!r}')
    return int(text)


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model_dir', help='folder that tools/convert_deploy.py wrote')
    parser.add_argument('--to', required=True, metavar='TARGET', help='onnx, openvino or exported-program')
    parser.add_argument(
        '--size', type=image_size, metavar='HxW', help='what the network sees (default: as the test pipeline resizes)'
    )
    parser.add_argument(
        '--image-size', type=image_size, metavar='HxW', help='of the images, if the graph is to resize them to --size'
    )
    parser.add_argument(
        '--batch', type=batch, default=1, metavar='N', help=f'images at once, or {DYNAMIC} (default: 1)'
    )
    parser.add_argument('--precision', default='fp32', help=f'{", ".join(PRECISIONS)} (default: fp32)')
    parser.add_argument('--output', default='classes', help=f'{" or ".join(OUTPUTS)} (default: classes)')
    parser.add_argument('--images', metavar='PATH', help='image, or folder of images, that joins the comparison')
    parser.add_argument('--out', metavar='FILE', help='file to write (default: model.SUFFIX in MODEL_DIR)')
    args = parser.parse_args(argv)
    from repvgg_seg.apps.export import export_model

    path, report = export_model(**vars(args))
    parity, shape = report['parity'], report['metadata']['input']
    print(f'wrote {path} ({report["bytes"] / 1e6:.1f} MB), images {"x".join(map(str, shape))}, {args.precision}')
    print(
        f'{parity["images"]} images through it: {parity["agreement"]:.4%} of the pixels as in float32 torch, '
        f'logits at most {parity["max_rel"]:.1e} off (relative)'
    )
    if 'decided' in parity:
        print(
            f'{parity["decided"]["share"]:.2%} of the pixels lead by more than rounding; '
            f'of those {parity["decided"]["agreement"]:.4%} agree'
        )


if __name__ == '__main__':
    sys.exit(main())
