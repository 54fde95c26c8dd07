"""SQL over a lake, through DuckDB: one view a kind of record, levels in decibels. Blocking."""

from __future__ import annotations

from typing import Any, Final

from stagebox.columns.meter import MeterColumns
from stagebox.errors import InputError
from stagebox.subjects import Kind
from stagebox_mixer.lake.reading import LakeReader, Span

_HUNDREDTHS: Final = tuple(
    field.name for field in MeterColumns.type if str(field.type) in ("list<item: int16>", "list<item: int8>")
)


def connect(reader: LakeReader, span: Span) -> Any:
    """Return a DuckDB connection with a view of every kind in the lake, named as the kind."""
    import duckdb

    connection = duckdb.connect()
    # What is asked is SQL of whoever runs it: it reads the lake, not the machine's files, and cannot undo that.
    for kind, dataset in reader.datasets(span).items():
        connection.register(f"{kind} (stored)", dataset)
        connection.execute(f'CREATE VIEW "{_quoted(kind)}" AS {_view(kind)}')
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def run(connection: Any, sql: str) -> Any:
    """Return the answer to ``sql`` as a pyarrow ``RecordBatchReader``.

    Raises:
        InputError: DuckDB does not understand it, or a table is not there.
    """
    import duckdb

    try:
        relation = connection.sql(sql)
    except duckdb.Error as error:
        views = [
            row[0]
            for row in connection.execute(
                "SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT suffix(view_name, ' (stored)')"
            ).fetchall()
        ]
        raise InputError(
            f"the lake cannot answer that: {str(error).splitlines()[0]}",
            remedy=f"its tables are {', '.join(sorted(views)) or 'none yet'}",
        ) from None
    if relation is None:
        raise InputError("that is no question: a lake is read, not changed", remedy="begin with SELECT")
    return relation.to_arrow_reader(1 << 16)


def all_of(kind: str) -> str:
    """Return the question for every record of a kind."""
    return f'SELECT * FROM "{_quoted(kind)}"'  # noqa: S608 - quoted


def _view(kind: str) -> str:
    """Return the SELECT of a kind's view: times as timestamps; meter levels as dB, correlation as −1…1.

    Which output a module record is of is the last token of its subject.
    """
    added = ["make_timestamp_ns(time_ns) AS time"]
    levels = ""
    if kind == "meter":
        parts = ", ".join(f"list_transform({name}, lambda x: x / 100.0) AS {name}" for name in _HUNDREDTHS)
        levels = f" REPLACE ({parts})"
    if kind == Kind.MODULE:
        added.append("split_part(subject, '.', 5) AS out")
    return f'SELECT *{levels}, {", ".join(added)} FROM "{_quoted(kind)} (stored)"'  # noqa: S608 - quoted


def _quoted(name: str) -> str:
    return name.replace('"', '""')
