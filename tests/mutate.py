"""Does a test notice? Mistakes that matter (mutations.toml), then random ones by cosmic-ray, one at a time in a copy of
the checkout: `make mutate`. A line each: killed by its first failing test, or SURVIVED.
"""

import argparse
import difflib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("mutations.toml")
SEED = 0  # of the sample, and of hypothesis
LIMIT = 600  # seconds of one run of tests; beyond it a mutant hangs, and is killed by that
PYTEST = (
    "-x -q -rfE -p no:cacheprovider -p no:xdist -o addopts= --allow-hosts=127.0.0.1,::1 --allow-unix-socket"
    f" --hypothesis-seed={SEED}"
)
_FIRST = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A file of the checkout with another text, and the arguments of pytest that ought to notice."""

    name: str
    file: str
    text: str
    tests: str


class Rotten(Exception):
    """The table no longer fits the code."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=20, help="random ones a module; 0 for none")
    parser.add_argument("--only", default="", help="a part of the names of mistakes, or of the modules")
    parser.add_argument("--skip-named", action="store_true", help="the random ones alone")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="mutate-") as folder:
        copy_checkout(ROOT, Path(folder))
        trial = Trial(Path(folder))
        table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
        survived = 0 if chosen.skip_named else try_named(trial, table, chosen.only)
        if chosen.mutants:
            try_sampled(trial, table, chosen.mutants, chosen.only)
    raise SystemExit(1 if survived else 0)


def copy_checkout(root: Path, out: Path) -> None:
    """The files that git knows or would add, as they are now."""
    listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (root / name).is_file():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, out / name)


class Trial:
    """Runs tests in the copy, mutated or not."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sound = folder, set()

    def killer(self, mutant: Mutant) -> str | None:
        """The first test that fails with the mutant in place, None where all pass."""
        self.refuse_broken(mutant.tests)
        with changed(self.folder / mutant.file, mutant.text):
            return self.first_failure(mutant.tests)

    def refuse_broken(self, tests: str) -> None:
        """Stop unless the tests pass without a mutant, and are of the copy: else they could not tell."""
        if tests in self.sound:
            return
        where = [sys.executable, "-c", "import hf_inspect; print(hf_inspect.__file__)"]
        found = subprocess.run(where, cwd="/", env=self._env(), capture_output=True, text=True).stdout.strip()
        if not Path(found).is_relative_to(self.folder):
            raise Rotten(f"the tests would run {found}, which is not the copy in {self.folder}.")
        begin = perf_counter()
        if failed := self.first_failure(tests):
            raise Rotten(f"without a mutation, {failed} fails; mend it first (pytest {tests}).")
        print(f"  (without a mutation all pass, {perf_counter() - begin:.0f} s: {tests})", flush=True)
        self.sound.add(tests)

    def first_failure(self, tests: str) -> str | None:
        """The first test that fails, `timeout`, or what pytest said of a run that ended otherwise; None if none did."""
        command = [sys.executable, "-m", "pytest", *shlex.split(PYTEST), *shlex.split(tests)]
        run = subprocess.Popen(
            command, cwd=self.folder, env=self._env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = run.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            end_group(run)
        if run.returncode == 0:
            return None
        failed = _FIRST.search(said)
        if run.returncode > 2 or failed is None:  # pytest could not run: no such file, no such option, no test
            raise Rotten(f"pytest {tests} ended with {run.returncode}:\n{said[-1500:]}")
        return failed[1]

    def _env(self) -> dict[str, str]:
        """Of the copy, without bytecode: a mutant written in the same second as another would be taken for it."""
        own = {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        return os.environ | own


def end_group(run: "subprocess.Popen[str]") -> None:
    """End what a run of tests has left running, recipes that it started among it."""
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    """The file with another text for a while."""
    before = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def try_named(trial: Trial, table: dict, only: str) -> int:
    """Every mistake of the table -> how many survived."""
    mutants = [named(trial.folder, **row) for row in table["mistake"] if only in row["name"]]  # all are read first
    survived = 0
    for mutant in mutants:
        by = trial.killer(mutant)
        survived += by is None
        print(f"{'SURVIVED' if by is None else 'killed'}  {mutant.name}" + (f"  by {by}" if by else ""), flush=True)
    print(f"mistakes that matter: {len(mutants) - survived} of {len(mutants)} noticed\n", flush=True)
    return survived


def named(folder: Path, name: str, file: str, old: str, new: str, tests: str) -> Mutant:
    """A row of the table; Rotten unless its old text stands exactly once in the file."""
    text = (folder / file).read_text(encoding="utf-8")
    if (n := text.count(old)) != 1:
        raise Rotten(f"{name}: {file} holds its old text {n} times, and once is wanted; mend {TABLE.name}.")
    return Mutant(name, file, text.replace(old, new), tests)


def try_sampled(trial: Trial, table: dict, n: int, only: str) -> None:
    """So many random mutants of each module, and the score: killed, of those that are not known to be equivalent."""
    totals = [0, 0, 0]
    for row in (row for row in table["module"] if only in row["name"]):
        counts = [0, 0, 0]  # killed, survived, equivalent
        for mutant in sampled(trial.folder, row["files"], row["tests"], n):
            before = (trial.folder / mutant.file).read_text(encoding="utf-8")
            why = equivalent(table.get("equivalent", []), mutant, before)
            by = None if why else trial.killer(mutant)
            counts[2 if why else 0 if by else 1] += 1
            state = f"equivalent ({why})" if why else f"killed by {by}" if by else "SURVIVED"
            print(f"{mutant.name}  {state}" + ("" if by else f"\n{difference(before, mutant.text)}"), flush=True)
        print(f"{row['name']}: {score(counts)}\n", flush=True)
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
    print(f"random mutants: {score(totals)}", flush=True)


def score(counts: list[int]) -> str:
    killed, survived, same = counts
    share = f" ({killed / (killed + survived):.0%})" if killed + survived else ""
    return f"{killed} of {killed + survived} killed{share}, {survived} survived, {same} equivalent left out"


def equivalent(known: list[dict], mutant: Mutant, before: str) -> str | None:
    """Why a mutant is no mistake, where the table says so of the lines that it changes."""
    changes = [line[1:].strip() for line in difference(before, mutant.text).splitlines()]
    rows = (row for row in known if row["file"] == mutant.file and [row["old"], row["new"]] == changes)
    return next((row["why"] for row in rows), None)


def difference(before: str, after: str) -> str:
    """The lines that differ, `-` and `+`."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if line[:1] in "-+" and line[:3] not in ("---", "+++"))


def sampled(folder: Path, names: list[str], tests: str, n: int) -> list[Mutant]:
    """`n` mutants at as many places of the files, each place as likely, always the same ones for the same code.

    cosmic-ray makes up to a dozen mutants of a place; one is taken. Left out are annotations and decorators, which fail
    at import or change nothing that runs, and what does not compile.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    places: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = {}
    kinds = [kind for kind in sorted(operator_names()) if not get_operator(kind).arguments()]
    for name, text in texts.items():
        nodes = list(ast_nodes(get_ast(text)))
        for kind in kinds:
            found = [(node, start) for node in nodes for start, _ in get_operator(kind)().mutation_positions(node)]
            for occurrence, (node, start) in enumerate(found):
                if not is_left_out(node):
                    places.setdefault((name, start), []).append((kind, occurrence))
    rng, mutants = random.Random(SEED), []
    for name, start in rng.sample(sorted(places), len(places)):
        kinds_here = places[name, start]
        for kind, occurrence in rng.sample(kinds_here, len(kinds_here)):
            text = mutate_code(texts[name], get_operator(kind)(), occurrence)
            if compiles(text):
                mutants.append(Mutant(f"{name}:{start[0]} {kind.rpartition('/')[2]}", name, text, tests))
                break
        if len(mutants) == n:
            break
    return mutants


def compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def is_left_out(node) -> bool:
    """Whether a node of parso's tree is part of an annotation or of a decorator."""
    while node.parent is not None:
        before, inside = node.get_previous_sibling(), node.parent.type
        annotation = before == ("->" if inside == "funcdef" else ":") and inside in ("tfpdef", "annassign", "funcdef")
        if annotation or node.type == "decorator":
            return True
        node = node.parent
    return False


if __name__ == "__main__":
    try:
        main()
    except Rotten as rotten:
        raise SystemExit(f"mutate: {rotten}") from None
