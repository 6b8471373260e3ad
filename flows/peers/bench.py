"""Our merges and a peer's, of the same files, in turn: whole processes, from their start to their end."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

from flows.peers import environment, recipes
from flows.peers.environment import MERGEKIT, SD_MECHA, Peer
from flows.process_cost import ROOT, Cost, ProcessError, measure, mergeline
from flows.synthetic import MANY_SMALL, Llama, make_checkpoints
from merge_lib.errors import SpecError, suggest

METHODS = {MERGEKIT.name: recipes.MERGEKIT_METHODS, SD_MECHA.name: recipes.SD_MECHA_METHODS}
START_UP = "start-up"
_DRIVER = Path(__file__).with_name("sd_mecha_driver.py")

Command = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One merge as two commands that each write `out`."""

    peer: Peer
    method: str
    ours: Command
    theirs: Command
    out: Path


@dataclass(frozen=True)
class Line:
    """What the rounds of a case cost on both sides; `refused` is what a side said that could not do it."""

    peer: str
    method: str
    ours: tuple[Cost, ...]
    theirs: tuple[Cost, ...]
    refused: str | None = None

    @property
    def our_cost(self) -> Cost:
        """Medians over the rounds."""
        return median_cost(self.ours)

    @property
    def their_cost(self) -> Cost:
        """Medians over the rounds."""
        return median_cost(self.theirs)

    @property
    def times_faster(self) -> float:
        """Their time in ours."""
        return self.their_cost.wall_s / self.our_cost.wall_s

    @property
    def memory_share(self) -> float:
        """Our anonymous memory as a share of theirs."""
        return self.our_cost.anon_bytes / self.their_cost.anon_bytes


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(*(median(getattr(cost, field.name) for cost in costs) for field in fields(Cost)))


def choose(peers: Sequence[str], methods: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The methods to run beside each peer.

    Args:
        peers: names; none means all.
        methods: names; none means all that the peer and we have.

    Raises:
        SpecError: no such peer, or a method that none of them has.
    """
    if unknown := [name for name in peers if name not in METHODS]:
        raise SpecError(
            f"'{unknown[0]}' is not a tool that we are compared with: {suggest(unknown[0], METHODS)}."
        )
    known = {peer: METHODS[peer] for peer in peers or METHODS}
    possible = dict.fromkeys(method for of_peer in known.values() for method in of_peer)
    if strange := [name for name in methods if name not in possible]:
        raise SpecError(
            f"'{strange[0]}' is not a method of {', '.join(known)}: {suggest(strange[0], possible)}."
        )
    wanted = methods or tuple(possible)
    found = {peer: tuple(name for name in of_peer if name in wanted) for peer, of_peer in known.items()}
    return {peer: names for peer, names in found.items() if names}


def compare(
    folder: Path,
    chosen: dict[str, tuple[str, ...]],
    size_bytes: int,
    experts: int,
    rounds: int,
    tell: Callable[[str], None],
) -> list[Line]:
    """Make what is needed, which is kept in the folder, then run every case."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return run_cases(list(make_cases(folder, chosen, size_bytes, experts)), folder, rounds, tell)


def run_cases(cases: Sequence[Case], folder: Path, rounds: int, tell: Callable[[str], None]) -> list[Line]:
    """Run every case on both sides, in turn, in each of the rounds.

    Before them each side runs once uncounted: ours merges (on a new machine it compiles its kernels), theirs starts
    up. The inputs are in the page cache; what was written is deleted before the next run, and the disk is at rest.
    A case in which a side fails is not run again.
    """
    lines = [_warm_up(case, folder, tell) for case in cases]
    for round_ in range(1, rounds + 1):
        for place, case in enumerate(cases):
            if lines[place].refused is None:
                tell(f"round {round_} of {rounds}: {case.method}, beside {case.peer.name}")
                lines[place] = _run_once(case, lines[place], folder)
    return lines


def make_cases(
    folder: Path, chosen: dict[str, tuple[str, ...]], size_bytes: int, experts: int
) -> Iterator[Case]:
    """The environments, the checkpoints and the recipes; for each peer its start-up first."""
    large, small = Llama.of_parameters(size_bytes // 2), MANY_SMALL
    for name, methods in chosen.items():
        peer = environment.PEERS[name]
        python = environment.make_interpreter(peer)
        yield _start_up(peer, python, folder)
        for method in methods:
            llama = small if method == recipes.MANY else large
            models = make_checkpoints(folder / f"llama-{2 * llama.parameters}", llama, experts)
            make = _mergekit_case if peer == MERGEKIT else _sd_mecha_case
            yield make(python, method, models, folder)


def _start_up(peer: Peer, python: Path, folder: Path) -> Case:
    theirs = (str(python), "-c", f"import {peer.module}")
    return Case(peer, START_UP, mergeline("merge", "--help"), theirs, folder / "none")


def _mergekit_case(python: Path, method: str, models: tuple[Path, tuple[Path, ...]], folder: Path) -> Case:
    recipe, out = folder / f"mergekit-{method}.yaml", folder / "merged"
    recipe.write_text(recipes.mergekit_yaml(method, *models), encoding="utf-8")
    ours = mergeline("merge", str(recipe), "--out", str(out))
    theirs = str(python.with_name("mergekit-yaml")), str(recipe), str(out), "--no-copy-tokenizer"
    return Case(MERGEKIT, method, ours, theirs, out)


def _sd_mecha_case(python: Path, method: str, models: tuple[Path, tuple[Path, ...]], folder: Path) -> Case:
    text, plan = recipes.sd_mecha_pair(method, *models)
    recipe, out = folder / f"sd-mecha-{method}.yaml", folder / "merged.safetensors"
    recipe.write_text(text, encoding="utf-8")
    recipe.with_suffix(".json").write_text(json.dumps(plan), encoding="utf-8")
    ours = mergeline("merge", str(recipe), "--out", str(out))
    theirs = (str(python), str(_DRIVER), str(recipe.with_suffix(".json")), str(out))
    return Case(SD_MECHA, method, ours, theirs, out)


def _warm_up(case: Case, folder: Path, tell: Callable[[str], None]) -> Line:
    tell(f"not counted: {case.method}, beside {case.peer.name}")
    try:
        _measure_ours(case, folder)
        if case.method == START_UP:
            _measure_theirs(case, folder)
    except ProcessError as failure:
        _delete(case.out)
        return Line(case.peer.name, case.method, (), (), str(failure))
    return Line(case.peer.name, case.method, (), ())


def _run_once(case: Case, line: Line, folder: Path) -> Line:
    try:
        ours, theirs = _measure_ours(case, folder), _measure_theirs(case, folder)
    except ProcessError as failure:
        _delete(case.out)
        return Line(line.peer, line.method, line.ours, line.theirs, str(failure))
    return Line(line.peer, line.method, (*line.ours, ours), (*line.theirs, theirs))


def _measure_ours(case: Case, folder: Path) -> Cost:
    _delete(case.out)
    cost = measure(case.ours, log=folder / "ours.log", cwd=ROOT)
    _check_written(case, case.ours)
    return cost


def _measure_theirs(case: Case, folder: Path) -> Cost:
    _delete(case.out)
    variables = environment.own_variables()
    cost = measure(case.theirs, log=folder / "theirs.log", cwd=folder, variables=variables)
    _check_written(case, case.theirs)
    _delete(case.out)
    return cost


def _check_written(case: Case, command: Command) -> None:
    if case.method != START_UP and not case.out.exists():
        raise ProcessError(f"`{' '.join(command)}` ended well but wrote no {case.out}.")


def _delete(out: Path) -> None:
    """Remove a result and let the disk finish what it was doing."""
    if out.is_dir():
        shutil.rmtree(out)
    for path in (out, out.with_suffix(".merge_manifest.json")):
        path.unlink(missing_ok=True)
    os.sync()
