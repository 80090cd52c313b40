"""`--good` as a user writes it -> which of a data set's names mean good."""

import csv
import io
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from hf_inspect.data.raw.accounting import first_of
from hf_inspect.errors import DataError

USUAL = "good,ok,clean,normal"  # what is looked for where nothing is said


def good_of(said: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that `said` names, in any case and Unicode form.

    `said` is one name, or several with commas between, where a name that holds commas stands in double quotes:
    `ok,"good, or nearly"`.
    """
    return [name for name in names if any(_plain(name) == _plain(one) for one in _meant(said, names))]


def check_good(said: str, names: Sequence[str], what: str) -> None:
    """DataError where `said` names what is none of `names` (of folders, of categories); the usual names need not be."""
    known = {_plain(name) for name in names}
    missing = [one for one in _meant(said, names) if _plain(one) not in known]
    if missing and said != USUAL:
        known_names = first_of(sorted(set(names)))
        raise DataError(f"--good {first_of(missing)}: there are no such {what}; there are {known_names}.")


def united(values: Sequence[str]) -> str:
    """Several values of `--good` as one: each is then one name where there is such a one, else a list."""
    if len(values) == 1:
        return values[0]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def same_but_for_case(names: Sequence[str]) -> list[str]:
    """The first names that differ in case alone, sorted; none where each stands for itself."""
    by_plain: dict[str, set[str]] = defaultdict(set)
    for name in names:
        by_plain[_plain(name)].add(name)
    return next((sorted(alike) for alike in by_plain.values() if len(alike) > 1), [])


def _meant(said: str, names: Sequence[str]) -> list[str]:
    """The single names that were said: what is a name as a whole is not taken apart at its commas."""
    known = {_plain(name) for name in names}
    if _plain(said) in known:
        return [said]
    cells = [cell for row in csv.reader(io.StringIO(said, newline=""), skipinitialspace=True) for cell in row]
    apart = [part for cell in cells for part in ([cell] if _plain(cell) in known else cell.split(","))]
    return [part.strip() for part in apart if part.strip()]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())
