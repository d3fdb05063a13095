"""Strategies: files with bytes changed, and values with parts replaced, removed or given twice."""

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

STRAY_PATHS = ("../outside/secret.png", "link.png", "a/../../outside/secret.png", "file://../outside/secret.png")
"""Ways out of the folder `inside`; `link.png` is a symbolic link in it."""

_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "<image>",
        "<video>",
        "</s>",
        "a.png",
        "v.gif",
        "yes",
        "A",
        "nan",
        "-1",
        "1e400",
        "é\u2028漢\U0001f600",
    ),
    *("a" * 5000, "http://127.0.0.1:9/a.png", "data:image/png;base64,AAAA", "data:,x", "/etc/hostname", "\ud83d"),
    *STRAY_PATHS,
)
_NUMBERS = (0, -1, 1, 2, 2**31, 2**63, 2**64, -(2**63), 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"))

scalars = st.sampled_from([None, True, False, *_NUMBERS, *_TEXTS])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_TEXTS[:14]), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def changed_bytes(draw: st.DrawFn, originals: Sequence[bytes], most: int = 6) -> bytes:
    """One of some files in which bytes are replaced, inserted, removed, repeated, or cut off."""
    contents = bytearray(draw(st.sampled_from(list(originals))))
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(contents)))
        kind = draw(st.sampled_from(("replace", "insert", "remove", "repeat", "cut")))
        length = draw(st.sampled_from((1, 1, 2, 4, 8, 64, 512)))
        if kind == "replace":
            contents[start : start + length] = draw(st.binary(min_size=1, max_size=min(length, 8)))
        elif kind == "insert":
            contents[start:start] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del contents[start : start + length]
        elif kind == "repeat":
            contents[start:start] = contents[start : start + length] * draw(st.integers(1, 20))
        else:
            del contents[start:]
    return bytes(contents)


@st.composite
def changed_value(draw: st.DrawFn, original: Any, most: int = 4) -> Any:
    """A value of JSON in which parts are replaced by others, removed, or named otherwise."""
    value = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(value))
        if not places:
            return draw(values)
        container, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("replace", "replace", "remove", "rename", "copy")))
        if kind == "remove":
            del container[key]
        elif kind == "rename" and isinstance(container, dict):
            container[draw(st.sampled_from(_TEXTS))] = container.pop(key)
        elif kind == "copy" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = draw(values)
    return value


def changed_json(original: Any, lines: bool = False) -> st.SearchStrategy[bytes]:
    """A JSON file whose values are changed, or whose bytes are.

    Args:
        lines: The file has an element of the list on each line.
    """

    def written(value: Any) -> bytes:
        if lines and isinstance(value, list):
            return b"".join(json.dumps(each).encode() + b"\n" for each in value)
        return json.dumps(value).encode()

    return changed_value(original).map(written) | changed_bytes([written(original)])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key or index of it."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
