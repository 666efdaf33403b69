"""The rules of the house: imports run downward, and importing the package loads nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import repvgg_seg

# Room -> the rooms that it may import. Each row names rows above it only, so there is no circle.
ROOMS: dict[str, set[str]] = {
    'models': set(),
    'runtime': set(),
    'data': set(),
    'weights': {'models'},
    'demo': {'data'},
    'pretrain': {'models', 'weights'},
    'deploy': {'models', 'weights', 'runtime'},
    'openmmlab': {'models', 'weights', 'data', 'pretrain', 'deploy'},
    'report': set(),
    'workflows': {'models', 'weights', 'data', 'runtime', 'pretrain', 'deploy', 'openmmlab'},
    'apps': {'models', 'weights', 'data', 'runtime', 'demo', 'pretrain', 'deploy', 'openmmlab', 'workflows', 'report'},
    'benchmarks': {'models', 'weights', 'data', 'runtime', 'pretrain', 'deploy', 'openmmlab', 'workflows', 'apps'},
}
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
    rooms = {path.parent.name for path in (repo / 'repvgg_seg').glob('*/__init__.py')}
    assert rooms == set(ROOMS)
    for path in (repo / 'repvgg_seg').rglob('*.py'):
        room = path.relative_to(repo / 'repvgg_seg').parts[0]
        for name in imports(path):
            root, _, rest = name.partition('.')
            if root in OPENMMLAB:
                assert room in {'openmmlab', 'workflows', 'apps', 'benchmarks'}, f'{path} imports {name}'
            other = rest.split('.')[0]
            if root == 'repvgg_seg' and room in ROOMS and other in ROOMS and other != room:
                assert other in ROOMS[room], f'{path} imports {name}'
    assert 'repvgg_seg.models.block.RepVGGBlock' in imports(repo / 'repvgg_seg/deploy/convert.py')  # it does see them


@pytest.mark.parametrize('room', ['apps', 'benchmarks'])
def test_what_only_calls_the_rest_stays_small(room: str, repo) -> None:
    lines = {path: path.read_text().count('\n') for path in (repo / 'repvgg_seg').rglob('*.py')}
    share = sum(n for path, n in lines.items() if path.parent.name == room) / sum(lines.values())
    assert share <= 0.15, (
        f'{room} is {share:.1%} of the code: move what is no argument, call or printing to a lower room'
    )


def test_contributing_shows_the_rooms_and_what_each_may_import(repo) -> None:
    shown = re.findall(r'^\| `(\w+)` \| [^|]+ \| ?([^|]*) ?\|$', (repo / 'CONTRIBUTING.md').read_text(), re.MULTILINE)
    assert {room: set(re.findall(r'`(\w+)`', names)) for room, names in shown} == ROOMS


def loaded_after(statement: str) -> set[str]:
    script = f'import sys; {statement}; print(*sys.modules)'
    names = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout.split()
    return {*names, *(name.split('.')[0] for name in names)}


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


def test_the_runtime_needs_neither_torch_nor_openmmlab() -> None:
    loaded = loaded_after('import repvgg_seg.runtime.predict, repvgg_seg.runtime.backends')
    assert 'repvgg_seg.runtime.segmenter' in loaded and not loaded & {'torch', *OPENMMLAB}


def test_the_plugin_loads_no_application_no_benchmark_and_no_renderer() -> None:
    loaded = {name for name in loaded_after('import repvgg_seg.openmmlab') if name.startswith('repvgg_seg.')}
    assert 'repvgg_seg.openmmlab.heads' in loaded
    assert not {name.split('.')[1] for name in loaded} & {'workflows', 'apps', 'benchmarks', 'demo'}


def test_one_function_walks_folders_of_samples(repo) -> None:
    others = {
        'files.py',
        'demo/dataset.py',
        'apps/cache_dataset.py',
    }  # look for what they wrote, hidden or not
    walking = {
        path.relative_to(repo / 'repvgg_seg').as_posix()
        for path in (repo / 'repvgg_seg').rglob('*.py')
        if any(word in path.read_text() for word in ('.rglob(', 'os.walk(', 'ImageFolder(', 'os.scandir('))
    }
    assert walking == others, 'use files.walk, which follows links and leaves hidden files out'
