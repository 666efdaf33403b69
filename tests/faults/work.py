"""What is killed, starved and doubled: one function for each command, on work as small as it gets."""

from __future__ import annotations

import http.server
import random
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from repvgg_seg.cli import main
from repvgg_seg.files import sha256
from repvgg_seg.runtime import predict, segmenter  # noqa: F401  (in the server; torch is not, beside it OpenVINO may hang)

BACKENDS = {'.onnx': ('onnxruntime', 'openvino'), '.xml': ('openvino',)}


def command(*words: object) -> int:
    """Run a command of this package."""
    return main([str(word) for word in words])


def convert(source: Path, folder: Path) -> None:
    """Convert a tiny network and write it, as convert-deploy does; the random numbers are those of its name."""
    import torch

    from repvgg_seg import RepVGGClassifier, switch_to_deploy
    from repvgg_seg.deploy.convert import make_folder, verify_classifier, write_deployed
    from tests.conftest import TINY, randomise

    torch.set_num_threads(1)
    original = randomise(RepVGGClassifier(TINY, 3), seed=int(source.name.removesuffix('.pth'))).eval()
    converted = switch_to_deploy(original)
    deviations = verify_classifier(original, converted, [(32, 32)])
    meta = {'source': source.name}
    write_deployed(
        make_folder(folder), original, converted, deviations, model='tiny', source=source, meta=meta, config=source.name
    )


def export(path: Path, seed: int) -> None:
    """Export a tiny segmentor, as export does."""
    import torch

    from repvgg_seg.deploy.convert import convert_segmentor
    from repvgg_seg.deploy.export import export_segmentor
    from tests.conftest import randomise
    from tests.segmentors import segmentor

    torch.set_num_threads(1)
    torch.manual_seed(seed)  # of one seed, files are equal
    model = convert_segmentor(randomise(segmentor(), seed).eval())
    to = 'openvino' if path.suffix == '.xml' else 'onnx'
    export_segmentor(model, path, to=to, size=(32, 32), source={'file': f'{seed}.pth', 'sha256': f'{seed:064x}'})


def download(url: str, target: Path, digest: str) -> None:
    """Download a file, as download-weights does."""
    from repvgg_seg.weights.checkpoint_io import WeightsError
    from repvgg_seg.weights.download import download as fetch

    def verify(path: Path) -> None:
        if sha256(path) != digest:
            raise WeightsError(f'{path} is another file')

    fetch(url, target, verify)


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, in parts where these are asked for."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                start = int((self.headers['Range'] or 'bytes=0-')[6:-1])
                if start == len(content):
                    self.send_response(416)
                    self.send_header('Content-Range', f'bytes */{start}')
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
                self.send_header('Content-Length', str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start:])

            def log_message(self, *_: object) -> None: ...

        super().__init__(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server_port}/weights.pth'
        threading.Thread(target=self.serve_forever, daemon=True).start()


def pictures(folder: Path, number: int, size: tuple[int, int] = (64, 96)) -> Path:
    """Write images of noise."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(number):
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(folder / f'{index}.png')
    return folder


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return bytes of which some are others, or the end is missing."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)


def open_damaged(files: dict[str, Path], suffix: str, folder: Path, seed: int) -> None:
    """Open and run ten damaged copies of an exported file; say what became of each."""
    chance = random.Random(seed)
    image = np.zeros((64, 96, 3), np.uint8)
    for other in ('.xml', '.bin', '.onnx'):
        (folder / f'local{other}').write_bytes(files[other].read_bytes())
    model = folder / ('local.onnx' if suffix == '.onnx' else 'local.xml')
    for _ in range(10):
        (folder / f'local{suffix}').write_bytes(damaged(files[suffix].read_bytes(), chance))
        try:
            mask = segmenter.Segmenter(model, backend=chance.choice(BACKENDS[model.suffix]))(image)
        except ValueError as error:
            print('refused', error)
        else:
            assert mask.shape == (64, 96) and mask.max() < 4
            print('survived')
