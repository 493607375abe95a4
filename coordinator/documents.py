"""TOML and JSON that others wrote, read with limits of size and depth; what is wrong with them, in words."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_TOML = 1 << 20  # characters
MAX_JSON = 64 << 20
MAX_DOTS = 16  # in the name of a table or a key: tomllib takes the square of them
# Strings are of no interest, and may have dots; one without an end is one to the end of its line, or of all.
_STRINGS = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'.*?(?:\'\'\'|\Z)|"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|#[^\n]*', re.DOTALL
)
_DEEP = re.compile(rf"(?:\.[\w-]+){{{MAX_DOTS + 1}}}", re.ASCII)
_BLANKS = str.maketrans("", "", " \t")


class DocumentError(ValueError):
    """A document that can't be read; the text says why, to be put after its name."""


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables in ``text``; raises `DocumentError`."""
    if len(text) > MAX_TOML:
        raise DocumentError(f"it has more than {MAX_TOML:,} characters")
    names = _STRINGS.sub(lambda found: "" if found[0].startswith("#") else "s", text).translate(_BLANKS)
    if _DEEP.search(names):
        raise DocumentError(f"a name in it has more than {MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise DocumentError("values are nested too deep in it") from None
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(str(error)) from None
    except ValueError:
        raise DocumentError("a number in it has too many digits") from None


def parse_value(text: str) -> Any:
    """Return the value in TOML that ``text`` is, and nothing else; raises `DocumentError`."""
    tables = parse_toml(f"value = {text}")
    if tables.keys() != {"value"}:
        raise DocumentError("more follows after it")
    return tables["value"]


def parse_json(text: str) -> Any:
    """Return the value in ``text``; raises `DocumentError`."""
    if len(text) > MAX_JSON:
        raise DocumentError(f"it has more than {MAX_JSON:,} characters")
    try:
        return json.loads(text)
    except RecursionError:
        raise DocumentError("values are nested too deep in it") from None
    except json.JSONDecodeError as error:
        raise DocumentError(str(error)) from None
    except ValueError:
        raise DocumentError("a number in it has too many digits") from None


def read(path: Path, parse: Callable[[str], Any]) -> Any:
    """Return what `parse_toml` or `parse_json` makes of the file ``path``; raises `OSError`, `DocumentError`."""
    with path.open(encoding="utf-8-sig") as file:  # editors on Windows begin it with a mark
        try:
            text = file.read(MAX_JSON + 1)
        except UnicodeDecodeError as error:
            raise DocumentError(f"it is no text in UTF-8 ({error.reason} at byte {error.start})") from None
    return parse(text)
