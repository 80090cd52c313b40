"""Measured values -> a model card, from the Jinja templates of model_cards/; a missing number is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.training import LOG


def render_card(kind: str, values: Mapping[str, Any]) -> str:
    """The card of a kind of model_cards/, such as `student`; DataError when the template names a value not there."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound, UndefinedError

    templates = Environment(
        loader=FileSystemLoader(files.shipped("model_cards")), undefined=StrictUndefined, keep_trailing_newline=True
    )
    templates.filters["figure"] = _figure
    try:
        return templates.get_template(f"{kind}.md.j2").render(values)
    except TemplateNotFound:
        raise DataError(f"no card template {kind!r} in {files.shipped('model_cards')}.") from None
    except UndefinedError as error:
        raise DataError(f"the {kind} card cannot be written: {error.message}; measure it first.") from None


def write_student_card(folder: Path) -> None:
    """README.md of a freshly trained student: its licences, how to load it, how it was trained; no test figures."""
    from hf_inspect.students import load_student

    student = load_student(folder)
    values = {
        "licences": student.licences,
        "architecture": student.architecture,
        "preprocess": student.preprocess,
        "fingerprint": student.trained_on["fingerprint"],
        "log": files.read_json(folder / LOG),
    }
    files.write_text(folder / "README.md", render_card("trained_student", values))


def _figure(figure: Mapping[str, Any]) -> str:
    """A figure with n and its 95 % interval, or why it is undefined."""
    if figure["value"] is None:
        return figure["method"]
    return f"{figure['value']:.1%} (95 % interval {figure['low']:.1%} to {figure['high']:.1%}, n = {figure['n']})"
