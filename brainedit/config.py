"""YAML -> checked keyword arguments of a public function: one list of defaults, the function's own."""

import inspect
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from brainedit._check import pick


def read_config(name_or_path: str | Path, sections: dict[str, Callable]) -> dict[str, dict[str, Any]]:
    """The sections of a YAML file, each checked against the keyword-only arguments of a function.

    name_or_path : a file, or the name of a bundled one, e.g. "joint_labels"
    sections : name of a section -> the function whose settings it holds

    Returns for each section what the file gives; a section that is missing is empty.
    Raises ValueError that names file, section, key, what came and what is known.
    """
    path = config_path(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML that can be read ({reason}).") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold sections ({', '.join(sections)}); it holds a {type(content).__name__}."
        )
    for section in content:
        _known(path, "section", section, sections)
    return {
        name: _checked(path, name, content.get(name) or {}, function) for name, function in sections.items()
    }


def config_path(name_or_path: str | Path) -> Path:
    """A file, or a bundled configuration by name."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    bundled = {p.stem: p for p in sorted(_bundled().glob("*.yaml"))}
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"There is no configuration file {path}. Bundled: {', '.join(bundled)}.")
    return pick("configuration", str(name_or_path), bundled)


def _bundled() -> Path:
    """configs/ as installed, or beside the package in a checkout."""
    installed = Path(str(files("brainedit"))) / "configs"
    return installed if installed.is_dir() else Path(str(files("brainedit"))).parent / "configs"


def _checked(path: Path, section: str, given: dict, function: Callable) -> dict[str, Any]:
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(given, dict):
        raise ValueError(f"{path}, section {section!r}: settings are needed, {given!r} came.")
    hints = get_type_hints(function)
    known = {
        name: hints[name]
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name in hints
    }
    checked, open_ended = {}, _takes_more(function)
    for key, value in given.items():
        if open_ended and key not in known:
            checked[key] = value  # the function itself knows these, by the data set that it is to load
            continue
        _known(path, f"key in section {section!r}", key, known)
        try:
            checked[key] = TypeAdapter(known[key]).validate_python(value, strict=isinstance(value, bool))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(
                f"{path}, section {section!r}, key {key!r}: {value!r} came; {reason}."
            ) from error
    return checked


def _takes_more(function: Callable) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _known(path: Path, kind: str, name: object, known: dict) -> None:
    try:
        pick(kind, str(name), known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
