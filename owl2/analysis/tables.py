"""The numbers of a figure: rows, as JSON with what they are, and as Parquet."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl2.files import write_whole


def write_table(rows: Sequence[Mapping[str, Any]], path: Path, **about: Any) -> list[Path]:
    """Writes rows of the same keys as `PATH.json` and `PATH.parquet`.

    Args:
        about: Entries of the JSON beside `rows`, such as the caption of the figure.

    Raises:
        ImportError: pyarrow is not installed.
    """
    pa, pq = parquet_modules()
    files = [path.with_suffix(suffix) for suffix in (".json", ".parquet")]
    text = json.dumps({**about, "rows": list(rows)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(files[0], text + "\n")
    pq.write_table(pa.Table.from_pylist(list(rows)), files[1])
    return files


def without_nan(value: Any) -> Any:
    """A number or numbers with `None` for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def parquet_modules() -> tuple[Any, Any]:
    """pyarrow and its Parquet.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("numbers as Parquet need the extra 'eval': pip install 'owl2[eval]'") from error
    return pyarrow, pyarrow.parquet
