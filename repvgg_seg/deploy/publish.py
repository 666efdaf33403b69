"""A folder to hand on: the exported file, weights, classes, reports, and a model card for Hugging Face's hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import FileError, StrPath, read_text, sha256, whole_folder, write_text
from ..runtime.backends import KINDS, open_model
from ..runtime.hub import MANIFEST
from ..runtime.metadata import ModelMetadata
from ..weights.checkpoint_io import read_checkpoint, write_checkpoint
from ..weights.key_maps import unwrap

CARD, CLASSES, WEIGHTS = 'README.md', 'classes.json', 'model.safetensors'


def publish(
    model: StrPath, out: StrPath, *, license: str = 'unknown', data: str | None = None, results: StrPath | None = None,
    trust: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Write the exported file `model`, or the one of a work directory, to a new folder `out`; return file -> SHA-256.

    `license` is an identifier of the hub, `data` says what it was trained on, and `results` is the file that
    `repvgg-seg test --json` wrote of it. The weights become model.safetensors where deploy.pth lies beside the file.
    The folder appears whole or not at all.

    Raises:
        FileNotFoundError: there is no exported file.
        ValueError: `out` is there already, or a file is another than its report says.
    """
    path, out = exported_file(model), Path(os.path.abspath(out))
    if out.exists():
        raise FileError(f'{out} is there already: name a new folder')
    metadata = open_model(path, 'auto', 'cpu', 'latency', trust=trust)[1].metadata
    report = _report(path.with_name(f'{path.name}.report.json'))
    measured = _report(Path(results)) if results else {}
    with whole_folder(out) as parts:
        files = [path, *([path.with_suffix('.bin')] if path.suffix == '.xml' else [])]
        for file in files:
            digest = (report.get('sha256') or {}).get(file.name)
            if digest and digest != sha256(file):
                raise FileError(f'{file} is not the file that its report proves right: export it again')
            shutil.copyfile(file, parts / file.name)
        for beside in (f'{path.name}.report.json', 'report.json'):
            if path.with_name(beside).is_file():
                shutil.copyfile(path.with_name(beside), parts / beside)
        deployed = path.with_name('deploy.pth')
        if deployed.is_file() and sha256(deployed) == metadata.source['sha256']:
            write_checkpoint(unwrap(read_checkpoint(deployed)), parts / WEIGHTS)
        classes = zip(metadata.classes, metadata.palette, strict=True)
        content = {'classes': [{'name': name, 'color': [*color]} for name, color in classes]}
        write_text(json.dumps(content, indent=2) + '\n', parts / CLASSES)
        write_text(model_card(metadata, path, license, data, report, measured), parts / CARD)
        names = [file.name for file in files]
        manifest = {'model': path.name, 'files': {name: sha256(parts / name) for name in names}}
        write_text(json.dumps(manifest, indent=2) + '\n', parts / MANIFEST)
        written = {file.name: sha256(file) for file in sorted(parts.iterdir())}
    return written


def exported_file(model: StrPath) -> Path:
    """Return an exported file: `model` itself, or the only one in a work directory or its folder `deploy`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    path = Path(model)
    if path.is_file():
        return path
    found = [file for folder in (path, path / 'deploy') for kind in KINDS for file in sorted(folder.glob(f'*{kind}'))]
    if not found:
        raise FileNotFoundError(f'{path} has no exported file: `repvgg-seg export {path} --to onnx` writes one')
    if len(found) > 1:
        raise ValueError(f'{path} has several exported files ({", ".join(map(str, found))}): name the one to publish')
    return found[0]


def _report(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FileError(f'{path} is damaged ({error})') from error
    return content if isinstance(content, dict) else {}


def model_card(
    metadata: ModelMetadata,
    path: Path,
    license: str,
    data: str | None,
    report: Mapping[str, Any],
    results: Mapping[str, Any],
) -> str:
    """Return the text of a model card: what the metadata, the report of the export and the test's results tell."""
    height, width = metadata.size
    precision = metadata.precision
    scores = {form: values['mIoU'] for form, values in (results.get('results') or {}).items() if 'mIoU' in values}
    scores |= {f'{form} file': value for form, value in (report.get('quantization') or {}).get('mIoU', {}).items()}
    rows = [
        ('input', f'uint8 images (N, H, W, {metadata.channels}), {height}x{width}, without any pre-processing'),
        ('output', f'{metadata.output}, {len(metadata.classes)} classes'),
        ('precision', precision),
        ('size', f'{path.stat().st_size / 1e6:.1f} MB' if path.suffix != '.xml' else ''),
        ('trained on', data or 'to be filled in'),
        ('mIoU', ', '.join(f'{value:.2f} ({form})' for form, value in scores.items()) or 'not measured'),
        ('same pixels as in float32 torch', f'{report["parity"]["agreement"]:.4%}' if 'parity' in report else ''),
        ('licence', license if license != 'unknown' else 'to be filled in'),
        ('made with', ', '.join(f'{name} {number}' for name, number in metadata.versions.items())),
    ]
    lines = [
        '---', f'license: {license}', 'library_name: repvgg-seg', 'pipeline_tag: image-segmentation', 'tags:',
        '- semantic-segmentation', '- repvgg', f'- {path.suffix[1:].replace("xml", "openvino")}', '---', '',
        f'# {path.stem}', '', 'A semantic segmentation network, re-parameterized to plain 3x3 convolutions.', '',
        '| | |', '|---|---|', *(f'| {name} | {value} |' for name, value in rows if value), '',
        'Classes: ' + ', '.join(metadata.classes) + '.', '', '```python', 'from repvgg_seg import Segmenter', '',
        "mask = Segmenter('hf://USER/NAME@REVISION')('street.png')  # (H, W) class indices", '```', '',
    ]  # fmt: skip
    return '\n'.join(lines)
