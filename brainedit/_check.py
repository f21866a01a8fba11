"""Choose a method by its name, and say what is known when the name is not."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def pick(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of `known` called `name`.

    kind : what is chosen, for the message, e.g. "encoder"

    Raises ValueError that lists the known names and guesses the one that was meant.
    """
    if name in known:
        return known[name]
    lower = {str(entry).lower(): entry for entry in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    hint = f"Did you mean {lower[near[0]]!r}? " if near else ""
    raise ValueError(f"Unknown {kind} {name!r}. {hint}Known: {', '.join(sorted(known))}.")
