"""kill -9 at any moment: what is finished stays whole, and the same command goes on to the same result."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repvgg_seg.files import sha256
from repvgg_seg.runtime.backends import open_model
from tests.faults import work
from tests.faults.conftest import TRIES
from tests.faults.trials import Trial, files
from tests.runtime.test_predict import movie


@dataclass
class Case:
    """A command, what is there before it, and how to tell what is left: 'survived' or 'refused'."""

    work: Callable[..., Any]
    args: Callable[[Path], tuple[Any, ...]]  # for a folder that the work is done in
    prepare: Callable[[Path], Any]
    look: Callable[[Path], str]  # fails if something is lost
    same: bool = True  # whether the same work gives the same bytes


def masks(tmp_path: Path, local_files) -> Case:
    inputs = work.pictures(tmp_path / 'in', 4)
    movie(inputs / 'trip.avi', np.stack([np.full((64, 96, 3), 10 * n, np.uint8) for n in range(5)]))
    words = ('predict', local_files['.xml'], inputs, '--out')
    whole = reference(work.command, (*words, tmp_path / 'whole'), tmp_path / 'whole')

    def look(folder: Path) -> str:
        for name, content in files(folder).items():
            assert content == whole[name], f'{name} is not whole'
        return 'survived'

    return Case(work.command, lambda folder: (*words, folder), lambda _: None, look)


def colours(tmp_path: Path, _) -> Case:
    source = work.pictures(tmp_path / 'coloured', 3, (8, 8))
    classes = tmp_path / 'classes.json'
    classes.write_text(json.dumps({'classes': [{'name': f'{n}', 'color': [n, n, n]} for n in range(2)]}))
    words = ('convert-masks', classes, source)
    whole = reference(work.command, (*words, tmp_path / 'whole', '--ignore-unknown'), tmp_path / 'whole')

    def look(folder: Path) -> str:
        assert all(content == whole[name] for name, content in files(folder).items())
        return 'survived'

    return Case(work.command, lambda folder: (*words, folder, '--ignore-unknown'), lambda _: None, look)


def weights(tmp_path: Path, _) -> Case:
    content = np.random.default_rng(0).bytes(3_000_000)
    server = work.Server(content)
    digest = hashlib.sha256(content).hexdigest()

    def look(folder: Path) -> str:
        target = folder / 'weights.pth'
        assert not target.exists() or target.read_bytes() == content
        return 'survived'

    return Case(work.download, lambda folder: (server.url, folder / 'weights.pth', digest), lambda _: None, look)


def deployed(tmp_path: Path, _) -> Case:
    for seed in (1, 2):
        (tmp_path / f'{seed}.pth').write_bytes(b'%d' % seed)
    old = tmp_path / 'old'
    assert Trial(work.convert, tmp_path / '1.pth', old).end() == 0

    def look(folder: Path) -> str:
        if not (folder / 'report.json').exists():  # then nothing takes the folder for a model
            return 'refused'
        report = json.loads((folder / 'report.json').read_text())
        assert sha256(folder / 'deploy.pth') == report['deployed']['sha256']
        assert (folder / 'deploy.py').read_text() == report['source']['file']
        return 'survived'

    args = lambda folder: (tmp_path / '2.pth', folder)  # noqa: E731
    return Case(work.convert, args, lambda folder: shutil.copytree(old, folder), look, same=False)


def exported(tmp_path: Path, _) -> Case:
    bins = {}
    for seed in (1, 2):
        assert Trial(work.export, tmp_path / f'{seed}/m.xml', seed).end() == 0
        bins[f'{seed}.pth'] = (tmp_path / f'{seed}/m.bin').read_bytes()

    def look(folder: Path) -> str:
        if not (folder / 'm.xml').exists():
            return 'refused'
        source = open_model(folder / 'm.xml', 'auto', 'auto', 'latency')[1].metadata.source['file']
        assert (folder / 'm.bin').read_bytes() == bins[source], 'the parts of two models'
        if (report := folder / 'm.xml.report.json').exists():
            assert json.loads(report.read_text())['sha256']['m.xml'] == sha256(folder / 'm.xml')
        return 'survived'

    args = lambda folder: (folder / 'm.xml', 2)  # noqa: E731
    return Case(work.export, args, lambda folder: shutil.copytree(tmp_path / '1', folder), look, same=False)


CASES = [
    pytest.param('predict', masks),
    pytest.param('download-weights', weights, marks=pytest.mark.faults),
    pytest.param('convert-masks', colours, marks=pytest.mark.faults),
    pytest.param('convert-deploy', deployed, marks=pytest.mark.faults),
    pytest.param('export', exported, marks=pytest.mark.faults),
]


def reference(function: Callable[..., Any], args: tuple[Any, ...], folder: Path) -> dict[str, bytes]:
    trial = Trial(function, *args)
    assert trial.end() == 0, trial.said
    return files(folder)


@pytest.mark.parametrize(('name', 'make'), CASES)
def test_a_killed_command_loses_nothing_and_goes_on(name, make, tmp_path, local_files, ledger) -> None:
    case: Case = make(tmp_path, local_files)
    chance = random.Random(0)

    def folder(number: object) -> Path:
        case.prepare(tmp_path / f'trial{number}')
        return tmp_path / f'trial{number}'

    undisturbed = Trial(case.work, *case.args(folder('')))
    assert undisturbed.end() == 0, undisturbed.said
    whole = files(tmp_path / 'trial')
    points: list[int | None] = sorted(chance.sample(range(1, undisturbed.changes + 1), min(TRIES, undisturbed.changes)))
    for number, point in enumerate([*points, *[None] * (TRIES // 2)]):
        place = folder(number)
        fault = f'{name} killed {"at a random moment" if point is None else "at a change of the disk"}'
        with ledger.trial(fault) as outcome:
            trial = Trial(case.work, *case.args(place), kill_at=point)
            status = trial.end(None if point else chance.uniform(0.2, 1) * undisturbed.seconds)
            assert status == -9 or point is None or trial.changes < point, trial.said
            outcome(case.look(place))
            go_on(case, place)
            assert files(place).keys() == whole.keys()
            assert not case.same or files(place) == whole


def go_on(case: Case, place: Path) -> None:
    again = Trial(case.work, *case.args(place))
    assert again.end() == 0, again.said
    assert case.look(place) == 'survived'


@pytest.mark.parametrize(('name', 'make'), CASES)
def test_a_full_disk_is_one_sentence_and_loses_nothing(name, make, tmp_path, local_files, ledger) -> None:
    case: Case = make(tmp_path, local_files)
    chance = random.Random(1)
    for number in range(TRIES):
        place = tmp_path / f'trial{number}'
        case.prepare(place)
        with ledger.trial(f'{name} on a full disk') as outcome:
            trial = Trial(case.work, *case.args(place), room=int(10 ** chance.uniform(0, 6)))
            status = trial.end()
            outcome(case.look(place) if status == 0 else 'refused')
            if status != 0 and case.work is work.command:
                assert status == 2 and len(trial.said.strip().splitlines()) == 1, trial.said
            if status != 0:
                case.look(place)
                assert re.search('cannot be written|File too large|once it is written', trial.said), trial.said
            go_on(case, place)


@pytest.mark.parametrize(('name', 'make'), CASES)
def test_two_at_once_do_not_harm_each_other(name, make, tmp_path, local_files, ledger) -> None:
    case: Case = make(tmp_path, local_files)
    case.prepare(tmp_path / 'alone')
    whole = reference(case.work, case.args(tmp_path / 'alone'), tmp_path / 'alone')
    for number in range(max(TRIES // 4, 1)):
        place = tmp_path / f'trial{number}'
        case.prepare(place)
        with ledger.trial(f'two of {name} at once') as outcome:
            for trial in [Trial(case.work, *case.args(place)) for _ in range(2)]:
                assert trial.end() == 0, trial.said
            outcome(case.look(place))
            assert files(place).keys() == whole.keys() and (not case.same or files(place) == whole)
