"""Build a TensorRT engine from an exported ONNX file, on a machine with an NVIDIA GPU and TensorRT.

    python tools/build_tensorrt.py work_dirs/demo/deploy/model_fp16.onnx model.engine

The engine's precision is that of the ONNX file. trtexec does the same, and times it:

    trtexec --onnx=model_fp16.onnx --saveEngine=model.engine --stronglyTyped

and for a file of --batch dynamic in addition

    --minShapes=images:1x512x1024x3 --optShapes=images:8x512x1024x3 --maxShapes=images:8x512x1024x3
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('onnx_file', help='what tools/export.py --to onnx wrote')
    parser.add_argument('out', help='engine file to write')
    parser.add_argument(
        '--max-batch', type=int, default=8, help='images at once, if the file takes any number (default: 8)'
    )
    args = parser.parse_args(argv)
    from repvgg_seg.deploy.engine import build_engine

    metadata = build_engine(args.onnx_file, args.out, max_batch=args.max_batch)
    height, width = metadata.size
    print(f'wrote {args.out}: RGB images {height}x{width} to {metadata.output}, {metadata.precision}')


if __name__ == '__main__':
    sys.exit(main())
