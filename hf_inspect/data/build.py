"""A data set's script -> a folder that plain `load_dataset` reads: Parquet, card and manifest.json."""

import errno
import hashlib
import importlib.util
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.console import plain
from hf_inspect.data import unchanged
from hf_inspect.data.card import absences, data_card, read_as, write_sheet
from hf_inspect.data.conflicts import settled
from hf_inspect.data.examine import Examined, Rejected, depth_notes, examine, notes_of, reading_of
from hf_inspect.data.folds import held_out
from hf_inspect.data.joining import join
from hf_inspect.data.layout import write_folders
from hf_inspect.data.licence import pass_gate
from hf_inspect.data.partition import DEFAULT, Placement, Row, absent
from hf_inspect.data.raw import accounting
from hf_inspect.data.raw.archives import opened
from hf_inspect.data.raw.goods import united
from hf_inspect.data.raw.sources import Raw
from hf_inspect.data.rules import Rules
from hf_inspect.errors import DataError, InspectError
from hf_inspect.schema import Progress, TaskSpec, no_progress

if TYPE_CHECKING:
    from hf_inspect.data.builder import InspectionBuilder

MANIFEST = "manifest.json"
MAX_SHARD_SIZE = "500MB"
MAX_ROW_GROUP = (100, 10_000_000)  # images, and about as many bytes: what the writer holds, several times over


def build(
    name: str,
    out: Path,
    *,
    src: Path | None = None,
    options: Mapping[str, Any] | None = None,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    num_proc: int = 1,
    folders: bool = False,
    accept_license: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Build the data set `name` (a folder of dataset_scripts/) from `src` into `out`; returns its manifest.

    `src` is the raw folder, or its archive; `options` are the data set's own, `rules` those of any. `num_proc` threads
    read and sign, and write the configs; each has one writer, in the order of the source. `folders` writes val/good
    and val/defect besides. A folder built from the same contents by the same script and options is left alone.
    DataError for a licence not accepted, a wrong root, an unknown option, a full disk, or a group above 5 % of the
    images.
    """
    if folders and rules.fold:
        raise DataError("--layout folders writes the test split, which a fold does not have; leave one of them out.")
    script = script_named(name)
    chosen = script.checked(options or {})
    if script.LICENCE is not None:
        pass_gate(name, script.LICENCE, accept_license)
    try:
        with files.staged_folder(out, [src] if src else []) as stage, opened(src, stage, progress) as raw:
            found = script.read(raw, chosen)
            arguments, said = _arguments(name, script, chosen, rules, found), unchanged.said_of(found)
            unchanged.take_note(stage, found, said)
            built = _built_with(out, folders)
            if {**built, **arguments} == built and unchanged.is_untouched(out, stage):
                raise _Unchanged
            good = script.task(found.samples, chosen).good
            decoded, rejected = examine(found.samples, num_proc, progress, rules=rules, good=good)
            arguments["contents_sha256"] = unchanged.contents_of(said, decoded, rejected)
            if arguments == built:
                unchanged.keep_note(out, stage)
                raise _Unchanged
            looked = found, decoded, rejected
            return _write(script, chosen, rules, looked, stage, arguments, num_proc, folders, progress)
    except _Unchanged:
        return files.read_json(out / MANIFEST)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DataError(f"the disk of {out} is full; make room and build again. Nothing was written.") from None


def options_from(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """`--n-good 20` as a script's option `n_good`, in its type; DataError for what is no option with a value.

    An option that may be repeated has all its values united; DataError where another is given twice.
    """
    script, given = script_named(name), dict[str, list[Any]]()
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        key = option.removeprefix("--").replace("-", "_")
        default = script.defaults([key])[key]
        if key in given and not script.may_be_repeated(key):
            raise DataError(f"{option} is given twice; give it once.")
        switch = isinstance(default, bool)
        one = True if switch else _typed(option, value if equals else next(rest, None), default)
        given.setdefault(key, []).append(one)
    return {key: united(values) if script.may_be_repeated(key) else values[0] for key, values in given.items()}


def described(manifest: Mapping[str, Any]) -> str:
    """What was built, for the terminal: counts, groups, what was left out, what splits lack, notes, fingerprint."""
    groups, several = manifest["groups"], len(manifest["counts"]) > 1
    lines = [str(TaskSpec.from_dict(manifest["task"], MANIFEST))]
    for config, splits in manifest["counts"].items():
        for split, counts in splits.items():
            place = f"{config} {split}" if several else split
            lines.append(f"{place:24} " + "  ".join(f"{name} {n}" for name, n in counts.items()))
    lines.append(f"{groups['n']} groups, the largest of {groups['largest']} images ({groups['largest_share']:.2%})")
    if manifest["rejected"]:
        first = manifest["rejected"][0]
        lines.append(
            f"LEFT OUT: {len(manifest['rejected'])} images (manifest.json lists them), such as "
            f"{plain(first['source'])}: {plain(first['reason'])}"
        )
    lines += accounting.totals(manifest["accounting"]) + accounting.lines(manifest["accounting"], plain)
    use = {True: "", False: ": NON-COMMERCIAL use only", None: ""}[manifest["commercial"]]
    told = (*absences(manifest["absent"]), *read_as(manifest), *manifest["notes"])
    lines += [f"NOTE: {note}" for note in told] + [f"licence {manifest['licence']}{use}"]
    return "\n".join([*lines, f"fingerprint {manifest['fingerprint']}"])


def shards(folder: Path, config: str, split: str) -> list[Path]:
    """The Parquet files of a built folder's split, in order; DataError where there are none."""
    inside = folder / "data" if config == DEFAULT else folder / "data" / config
    if not (found := sorted(inside.glob(f"*-{split}*.parquet"))):
        raise DataError(
            f"{folder} has a {MANIFEST} and no Parquet of {split}; give a folder that `hf-inspect data build` wrote, "
            "or build it again."
        )
    return found


def fingerprint(task: TaskSpec, images: Sequence[Mapping[str, Any]], bits: int | None = None) -> str:
    """SHA-256 (hex) of a data set: its task, and the contents and places of the images, as its manifest has them.

    So are the `bits` that its 16-bit images are read by, where it has any.
    """
    content = {"task": task.to_dict(), "images": list(images)} | ({} if bits is None else {"bits": bits})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def script_named(name: str) -> "type[InspectionBuilder]":
    """The builder of a folder of dataset_scripts/, loaded from its file: they are no package."""
    folder = files.shipped("dataset_scripts")
    path = folder / name / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in folder.glob("*/*.py")))
        raise DataError(f"no data set {name!r}; there are: {known}.")
    spec = importlib.util.spec_from_file_location(f"hf_inspect_dataset_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # `datasets` imports a builder's module by name
    spec.loader.exec_module(module)
    return module.BUILDER


def _typed(option: str, value: str | None, default: Any) -> Any:
    if value is None:
        raise DataError(f"{option} needs a value; the default is {default}.")
    if not isinstance(default, int | float):
        return value
    try:
        return type(default)(value)
    except ValueError:
        raise DataError(f"{option} {value!r} is no number; the default is {default}.") from None


def _behind(error: BaseException) -> BaseException:
    """What made `datasets` give up: an error of ours or of the disk, where one stands behind, else `error` itself."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, InspectError) or (isinstance(at, OSError) and at.errno):
            return at
        at = at.__cause__ or at.__context__
    return error


@dataclass
class _Counted:
    """Counts the rows written, by whichever thread."""

    progress: Progress
    total: int
    done: int = 0
    lock: Lock = field(default_factory=Lock)

    def __call__(self) -> None:
        with self.lock:
            self.done += 1
            self.progress("write Parquet", self.done, self.total)


class _Unchanged(Exception):
    """The folder is what would be built."""


def _arguments(name: str, script: "type[InspectionBuilder]", options: Any, rules: Rules, raw: Raw) -> dict[str, Any]:
    """What a build depends on beside what the files hold: script, options, rules, how many images there are."""
    stated = {"name": name, "version": str(script.VERSION), "options": asdict(options), "rules": asdict(rules)}
    return stated | {"files": len(raw.samples)}


def _built_with(out: Path, folders: bool) -> dict[str, Any]:
    """What `out` was built with; nothing where it lacks what is asked for, or what this version states."""
    manifest = files.read_json(out / MANIFEST) if (out / MANIFEST).exists() else {}
    whole = {"task", "absent", "reading", "accounting"} <= set(manifest) and (out / "val").exists() == folders
    return manifest["builder"] if whole else {}


def _write(
    script: "type[InspectionBuilder]",
    options: Any,
    rules: Rules,
    looked: tuple[Raw, list[Examined], list[Rejected]],
    stage: Path,
    arguments: Mapping[str, Any],
    num_proc: int,
    folders: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Group, place, write what was found, which of it decodes, and which does not; returns the manifest."""
    raw, decoded, rejected = looked
    examined, torn = settled(decoded, rules.on_conflict)
    if not examined:
        raise DataError(f"none of {len(raw.samples)} images can be used; the first: {_first(rejected, torn)}")
    taken = [image.sample for image in examined]
    task, columns = script.task(taken, options), script.columns_of(taken, options)
    joined = join(examined, script.keys(taken, options), rules.near, task)
    placement = script.place(examined, joined.groups, options)
    placement = replace(placement, notes=[*joined.notes, *placement.notes])
    placement = held_out(placement, rules.fold) if rules.fold else placement
    write = partial(script, spec=task, columns=columns, dataset_name=str(arguments["name"]))
    with ThreadPoolExecutor(1) as beside:
        sheet = beside.submit(write_sheet, stage, placement.rows, reading_of(examined, rules))
        _write_parquet(write, placement.rows, stage, num_proc, progress)
        sheet.result()
    if folders:
        config, split = script.EVALUATION
        evaluated = [row for row in placement.rows if row.config in script.CONFIGS[config] and row.split == split]
        write_folders(stage, str(arguments["name"]), evaluated, task)
    why = dict.fromkeys(torn, accounting.CONFLICT) | {one.source: accounting.REJECTED for one in rejected}
    account = accounting.of_files(raw, {row.sample.source for row in placement.rows}, {**placement.left_out, **why})
    accounts = {"files": account, **placement.accounts}
    placement = replace(placement, notes=[*raw.notes, *placement.notes], accounts=accounts)
    manifest = _manifest(script, options, task, placement, rejected, arguments, _reading(examined, rules))
    files.write_text(stage / "README.md", data_card(script, manifest))
    head = {key: value for key, value in manifest.items() if key != "images"}
    files.write_table(stage / MANIFEST, head, "images", manifest["images"])
    return manifest


def _reading(examined: Sequence[Examined], rules: Rules) -> dict[str, Any]:
    """How the images are read, and what was unusual about how many of them, as the manifest says it."""
    found = {"notes": notes_of(examined), "warnings": depth_notes(examined, rules)}
    return reading_of(examined, rules).to_dict() | found


def _write_parquet(
    builder_of: "Callable[..., InspectionBuilder]", rows: Sequence[Row], stage: Path, num_proc: int, progress: Progress
) -> None:
    """Each config's rows as Parquet under data/, images embedded as they are; a config has one writer."""
    import datasets

    datasets.disable_progress_bars()  # ours spans all configs
    step = _Counted(progress, len(rows))

    def write(config: str) -> None:
        own = [row for row in rows if row.config == config]
        where = {"cache_dir": str(stage / "cache"), "config_name": config}
        builder = builder_of(rows=own, on_row=step, writer_batch_size=_row_group(own), **where)
        target = stage / "data" if config == DEFAULT else stage / "data" / config
        try:
            builder.download_and_prepare(str(target), file_format="parquet", max_shard_size=MAX_SHARD_SIZE)
        except datasets.exceptions.DatasetGenerationError as error:
            raise _behind(error) from None

    with ThreadPoolExecutor(num_proc) as threads:
        list(threads.map(write, dict.fromkeys(row.config for row in rows)))
    shutil.rmtree(stage / "cache", ignore_errors=True)
    for extra in (*stage.rglob("*.lock"), *(stage / "data").rglob("*.json")):  # datasets' own bookkeeping
        extra.unlink()


def _row_group(rows: Sequence[Row]) -> int:
    images, size = MAX_ROW_GROUP
    mean = sum(row.sample.path.stat().st_size for row in rows) / len(rows)
    return max(1, min(images, int(size / max(mean, 1))))


def _manifest(
    script: "type[InspectionBuilder]",
    options: Any,
    task: TaskSpec,
    placement: Placement,
    rejected: Sequence[Rejected],
    arguments: Mapping[str, Any],
    reading: Mapping[str, Any],
) -> dict[str, Any]:
    rows = placement.rows
    kept = [row.to_manifest() for row in rows]
    once = {row.sample.source: row.group for row in rows}
    largest = Counter(once.values()).most_common(1)[0][1]
    return {
        "builder": dict(arguments),
        "task": task.to_dict(),
        **({} if placement.objects is None else {"objects": placement.objects.to_dict()}),
        "licence": script.LICENCE.spdx if script.LICENCE else options.license,
        "commercial": script.LICENCE.commercial if script.LICENCE else None,
        "views": script.VIEWS,
        "notes": placement.notes,
        "reading": reading,
        "fingerprint": fingerprint(task, kept, reading["bits"]),
        "counts": _counts(rows, task),
        "strata": _strata(rows),
        "absent": absent(rows),
        "groups": {"n": len(set(once.values())), "largest": largest, "largest_share": largest / len(once)},
        "rejected": [asdict(one) for one in rejected],
        "accounting": placement.accounts,
        "images": kept,
    }


def _counts(rows: Sequence[Row], task: TaskSpec) -> dict[str, dict[str, dict[str, int]]]:
    """Images by config, split and class, in the order of the task."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        counts.setdefault(row.config, {}).setdefault(row.split, Counter())[str(row.sample.class_name)] += 1
    return {
        config: {split: {name: n for name in task.classes if (n := splits[split][name])} for split in sorted(splits)}
        for config, splits in counts.items()
    }


def _strata(rows: Sequence[Row]) -> dict[str, int]:
    """Images by stratum, each counted once in however many configs it is shown."""
    strata = {row.sample.source: row.sample.stratum for row in rows}.values()
    return dict(sorted(Counter(strata).items()))


def _first(rejected: Sequence[Rejected], torn: Sequence[str]) -> str:
    if rejected:
        return f"{rejected[0].source}: {rejected[0].reason}"
    return f"{torn[0]} has the same bytes as an image of another class." if torn else "there is none."
