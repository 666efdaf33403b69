"""The rules of the house: imports run downward, and importing the package loads nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import repvgg_seg

FLOORS = {
    'models': 1, 'measure': 1, 'demo': 1,
    'weights': 2, 'pretrain': 2, 'deploy': 2, 'data': 2,
    'openmmlab': 3,
}  # fmt: skip
OPENMMLAB = {'mmseg', 'mmengine', 'mmcv'}


def imports(path: Path) -> set[str]:
    """Return the absolute dotted names that a module of the package imports."""
    package = ['repvgg_seg', *path.relative_to(Path(repvgg_seg.__file__).parent).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *filter(None, [node.module])])
            found |= {f'{module}.{alias.name}' for alias in node.names}
    return found


def test_imports_run_downward_only(repo) -> None:
    for path in (repo / 'repvgg_seg').rglob('*.py'):
        parts = path.relative_to(repo / 'repvgg_seg').parts
        for name in imports(path):
            root, _, rest = name.partition('.')
            if root in OPENMMLAB:
                assert parts[0] in {'openmmlab', 'doctor.py'}, f'{path} imports {name}'
            if root == 'repvgg_seg' and len(parts) > 1 and rest.split('.')[0] in FLOORS:
                assert FLOORS[rest.split('.')[0]] <= FLOORS[parts[0]], f'{path} imports {name}'
    assert 'repvgg_seg.models.block.RepVGGBlock' in imports(repo / 'repvgg_seg/deploy/convert.py')  # it does see them


def loaded_after(statement: str) -> set[str]:
    script = f'import sys; {statement}; print(*sorted({{name.split(".")[0] for name in sys.modules}}))'
    return set(
        subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_the_package_loads_neither_torch_nor_openmmlab() -> None:
    assert not loaded_after('import repvgg_seg; repvgg_seg.__version__') & {'torch', 'numpy', *OPENMMLAB}


def test_public_names_need_nothing_of_openmmlab() -> None:
    loaded = loaded_after('from repvgg_seg import *')
    assert 'torch' in loaded and not loaded & OPENMMLAB


def test_public_names_resolve_and_others_do_not() -> None:
    assert set(repvgg_seg.__all__) <= set(dir(repvgg_seg))
    for name in repvgg_seg.__all__:
        assert getattr(repvgg_seg, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        repvgg_seg.Nonsense  # noqa: B018
