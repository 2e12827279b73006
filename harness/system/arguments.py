"""Settings of a command line, KEY=VALUE, read by the types of a dataclass's fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Of a list: in quotes of either kind, or without. The last match of a text is its empty end.
_ELEMENT = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^,"']*))\s*(?:,|$)""")
_NUMBERS = {"int": (int, "a whole number"), "float": (float, "a number")}


def read_value(key: str, text: str, kind: str) -> Any:
    """Read a value by the name of its type, as `harness.run` reads it.

    `Any` is a text, or a list in brackets; a list or tuple may have brackets.

    >>> read_value("side", "64", "int"), read_value("root", "null", "str | None")
    (64, None)
    >>> read_value("exclude", "[a.png, 'b,c.png']", "Any")
    ['a.png', 'b,c.png']
    """
    kind, _, optional = kind.partition(" | ")
    if text == "null" and (optional or kind == "Any"):
        return None
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, got '{text}'")
        return text.lower() == "true"
    if kind in _NUMBERS:
        number, what = _NUMBERS[kind]
        try:
            return number(text)
        except ValueError:
            raise ValueError(f"{key} must be {what}, got '{text}'") from None
    in_brackets = text.startswith("[") and text.endswith("]")
    if kind.startswith(("list", "tuple")) or (kind == "Any" and in_brackets):
        line = text[1:-1] if in_brackets else text
        return ["".join(parts).strip() for parts in _ELEMENT.findall(line)[:-1]]
    return Path(text) if kind == "Path" else text
