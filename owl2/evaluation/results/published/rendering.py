"""A published table as Markdown, in the layout of the source, with a result of ours below the row of mPLUG-Owl2."""

from collections.abc import Mapping

from .tables import REFERENCE, PublishedRow, PublishedTable

OURS = "Ours"
DIFFERENCE = f"Difference to {REFERENCE}"
REASON = "Why not a fair comparison"

_MISSING = "-"


def markdown(
    table: PublishedTable, ours: Mapping[str, float] | None = None, reasons: Mapping[str, str] | None = None
) -> str:
    """The table, with `ours` and its difference to mPLUG-Owl2 below that model's row, or next to the models' columns.

    Args:
        ours: Our results, in the units of their columns, by column key: `vqav2`, or `gpt_assisted.msvd_qa.score` where
            mPLUG-Owl2 has several rows.
        reasons: Reasons why a result of ours must not be compared with the published one, by the same keys. They get a
            column of their own; the difference is still shown.

    Raises:
        ValueError: A key is not a measure of this table, or a reason is given without a result.
    """
    ours, reasons = ours or {}, reasons or {}
    _check(table, ours, reasons)
    lines = _by_columns if table.layout == "models_as_columns" else _by_rows
    legend = [f"- {mark}: {meaning}" for mark, meaning in table.legend.items()]
    legend += [f"- {note}" for note in table.notes]
    text = [f"**{table.title}** ({table.source})", "\n".join(lines(table, ours, reasons)), "\n".join(legend)]
    return "\n\n".join(part for part in text if part) + "\n"


def _check(table: PublishedTable, ours: Mapping[str, float], reasons: Mapping[str, str]) -> None:
    measures = [measure for reference in table.references for measure in table.measures(reference)]
    if unknown := [key for key in (*ours, *reasons) if key not in measures]:
        raise ValueError(f"{table.name} has no {', '.join(unknown)}; its measures are {', '.join(measures)}")
    if alone := [key for key in reasons if key not in ours]:
        raise ValueError(f"a reason is given for {', '.join(alone)}, but no result; give both, or neither")


def _by_rows(table: PublishedTable, ours: Mapping[str, float], reasons: Mapping[str, str]) -> list[str]:
    labels = [_join("<br>", column.group, column.label) for column in table.columns]
    reason_header = [REASON] if reasons else []
    blank = [""] * len(reason_header)
    header = ["Method", *table.details, *labels, *reason_header]
    body: list[list[str]] = []
    section = None
    for row in table.rows:
        if row.section not in (None, section):
            section = row.section
            body.append([f"*{table.sections[section]}*"] + [""] * (len(header) - 1))
        body.append([row.model + row.mark, *_details(table, row), *_values(table, row), *blank])
        if row.model == REFERENCE:
            body += _our_rows(table, row, ours, reasons)
    return _lines(header, body)


def _our_rows(
    table: PublishedTable, reference: PublishedRow, ours: Mapping[str, float], reasons: Mapping[str, str]
) -> list[list[str]]:
    """Our row and the row of differences, where something of `ours` belongs to `reference`."""
    measures = table.measures(reference)
    if not any(measure in ours for measure in measures):
        return []
    pairs = [_ours_and_difference(table, reference, index, ours) for index in range(len(measures))]
    named = zip(table.columns, measures, strict=True)
    parts = [f"{_join(' ', column.group, column.label)}: {reasons[key]}" for column, key in named if key in reasons]
    details = [""] * len(table.details)
    rows = [[OURS, *details, *(value for value, _ in pairs)], [DIFFERENCE, *details, *(delta for _, delta in pairs)]]
    return [[*rows[0], "; ".join(parts)], [*rows[1], ""]] if reasons else rows


def _by_columns(table: PublishedTable, ours: Mapping[str, float], reasons: Mapping[str, str]) -> list[str]:
    """Models side by side, a line for each measure."""
    (reference,) = table.references
    cells = list(zip(*(_values(table, row) for row in table.rows), strict=True))
    header = ["Datasets", "Metrics", *(row.model + row.mark for row in table.rows)]
    header += [OURS, DIFFERENCE] if ours else []
    header += [REASON] if reasons else []
    body = []
    for index, (column, measure) in enumerate(zip(table.columns, table.measures(reference), strict=True)):
        line = [column.group or "", column.label, *cells[index]]
        line += _ours_and_difference(table, reference, index, ours) if ours else []
        line += [reasons.get(measure, "")] if reasons else []
        body.append(line)
    return _lines(header, body)


def _ours_and_difference(
    table: PublishedTable, reference: PublishedRow, index: int, ours: Mapping[str, float]
) -> tuple[str, str]:
    value, published = ours.get(table.measures(reference)[index]), reference.values[index]
    if value is None:
        return _MISSING, _MISSING
    decimals = table.decimals(index)
    if published is None:
        return f"{value:.{decimals}f}", _MISSING
    difference = round(value - published, decimals) + 0.0  # no -0.0
    return f"{value:.{decimals}f}", f"{difference:+.{decimals}f}"


def _details(table: PublishedTable, row: PublishedRow) -> list[str]:
    return list(row.details) or [""] * len(table.details)


def _values(table: PublishedTable, row: PublishedRow) -> list[str]:
    cells = []
    for index, (column, value) in enumerate(zip(table.columns, row.values, strict=True)):
        text = _MISSING if value is None else f"{value:.{table.decimals(index)}f}" + row.marks.get(column.key, "")
        cells.append(text + (f"±{row.deviations[column.key]}" if column.key in row.deviations else ""))
    return cells


def _join(separator: str, *parts: str | None) -> str:
    return separator.join(part for part in parts if part)


def _lines(header: list[str], body: list[list[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (header, *body)]
    lines = ["| " + " | ".join(line) + " |" for line in escaped]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:]]
