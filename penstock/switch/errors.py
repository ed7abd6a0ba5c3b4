"""What is said of wrong input, wherever it comes from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SourceError(Exception):
    """The source of desired state (a configuration file) is wrong: nothing of it takes effect.

    The text has a line for each problem, naming the source, the object, the value and what would be right.
    """


def unknown(what: str, value: str, known: Iterable[str]) -> str:
    """The message for a word that is none of those known, with the nearest one suggested."""
    words = list(known)
    close = difflib.get_close_matches(value, words, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    listed = ", ".join(words) if words else "none"
    return f"unknown {what} {value!r}{hint} (known: {listed})"
