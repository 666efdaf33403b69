"""Published models: a folder, or a repository of Hugging Face's hub, opened by its address.

    hf://user/name@REVISION     the revision is a commit, a tag or a branch
    file:///home/me/published

The manifest names the files of the model and their SHA-256, which are checked.
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..environment import optional
from ..files import FileError, StrPath, read_text, sha256

logger = logging.getLogger(__name__)

MANIFEST = 'repvgg_seg.json'
_HUB, _FOLDER = 'hf://', 'file://'
_COMMIT = re.compile('[0-9a-f]{40}')


def located(address: StrPath) -> StrPath:
    """Return the model file of a published model; anything but an address is returned as it is.

    What comes from the hub stays in its cache. An address without a revision takes the newest commit, and says so.

    Raises:
        FileNotFoundError: the folder or file is not there.
        FileError: the address is none, the hub does not give the files, or they are not those that were published.
        ImportError: huggingface_hub is not installed.
    """
    text = os.fspath(address)
    if not isinstance(text, str) or not text.startswith((_HUB, _FOLDER)):
        return address
    if text.startswith(_FOLDER):
        folder = Path(urllib.request.url2pathname(urllib.parse.urlsplit(text).path))
        return _checked(text, _manifest(text, folder / MANIFEST), lambda name: folder / name)
    match = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?', text)
    if match is None:
        raise FileError(f'{text} is no address of a model: write hf://user/name@revision')
    name, revision = match.groups()
    manifest = _download(text, name, MANIFEST, revision)
    commit = manifest.parent.name  # of the cache, which has a folder for each
    if revision is None and _COMMIT.fullmatch(commit):
        logger.warning('%s names no revision, so it may be another model tomorrow: today it is hf://%s@%s', text, name,
                       commit)  # fmt: skip
    pinned = commit if _COMMIT.fullmatch(commit) else revision  # all files are of one commit
    return _checked(text, _manifest(text, manifest), lambda file: _download(text, name, file, pinned))


def _download(address: str, name: str, file: str, revision: str | None) -> Path:
    huggingface_hub = optional('huggingface_hub', 'hub', address)
    try:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision))
    except (OSError, ValueError) as error:  # all that the client raises over names, revisions and networks
        reason = ' '.join(str(error).split()).partition('. ')[0]
        cure = 'check the name, the revision and the network'
        raise FileError(f'{file} of {address} cannot be had ({reason}): {cure}') from error


def _manifest(address: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
        names = [content['model'], *content['files']]
        if not all(re.fullmatch(r'\w[\w.-]*', name) for name in names) or content['model'] not in content['files']:
            raise ValueError('a name is none of a file of the folder')
        return {'model': content['model'], 'files': {name: str(content['files'][name]) for name in content['files']}}
    except FileNotFoundError:
        raise FileNotFoundError(
            f'{address} has no {MANIFEST}: name what `repvgg-seg publish` wrote, or a file itself without file://'
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise FileError(f'{MANIFEST} of {address} is damaged ({error}): publish the model again') from error


def _checked(address: str, manifest: dict[str, Any], get: Callable[[str], Path]) -> Path:
    for name, digest in manifest['files'].items():
        path = get(name)
        if sha256(path) != digest:
            raise FileError(f'{path} is not the file that {address} published: remove it, and get it again')
    return get(manifest['model'])
