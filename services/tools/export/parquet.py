"""Writes tables as Parquet files, in batches of constant size.  Needs the extra ``parquet``."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.tools.export.tables import Row, Table, Type

_BATCH = 20_000
"""Rows that are kept in memory."""
_TYPES: dict[Type, Any] = {
    "time": pa.timestamp("ns", tz="UTC"),
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "yes or no": pa.bool_(),
}


class ParquetFile:
    """One table's file.  Each column's metadata has its unit and its meaning."""

    def __init__(self, path: Path, table: Table) -> None:
        """Create the file.

        Raises:
            OSError: it cannot be written.
        """
        self.count = 0
        self._table = table
        fields = [
            pa.field(one.name, _TYPES[one.kind], metadata={"unit": one.unit, "meaning": one.meaning})
            for one in table.columns
        ]
        self._schema = pa.schema(fields, metadata={"row": table.row})
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Row] = []

    def add(self, message: Any) -> None:
        """Add the rows of a message."""
        self._rows += self._table.rows(message)
        if len(self._rows) >= _BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left, and end the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self.count += len(self._rows)
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(self._schema)
        arrays = [pa.array(list(values), field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []
