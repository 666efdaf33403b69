"""How mmengine, and so mmseg, reads and writes local files; importing this module registers it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..files import atomic_write, read_text, walk


class LocalFiles(LocalBackend):
    """Local files, written whole or not at all, and found as everywhere in this package.

    A run that is killed while it saves keeps its previous checkpoint.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        with atomic_write(filepath) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        """Return a text file, such as a list of images, in the encoding that its byte order mark tells."""
        return read_text(filepath) if encoding == 'utf-8' else super().get_text(filepath, encoding)

    def list_dir_or_file(
        self,
        dir_path: str | Path,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Yield the paths in a folder; all files below it are found as `files.walk` finds them.

        mmengine goes into hidden folders, and round and round where a link leads back.
        """
        if list_dir or not (list_file and recursive):
            return super().list_dir_or_file(dir_path, list_dir, list_file, suffix, recursive)
        found = (os.path.relpath(path, dir_path) for path in walk(dir_path))
        return (path for path in found if suffix is None or path.endswith(suffix))


register_backend('local', LocalFiles, force=True, prefixes='')
