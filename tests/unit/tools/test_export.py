"""A recording as Parquet tables, read back."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from schemas.messages import Action, Decision, Sample
from services.cli import main
from services.tools.common.formatting import decode_message
from tests.support.bus_stream import config, record, stream

pq = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")


def test_tables_hold_what_the_messages_say(tmp_path: Path) -> None:
    """Every row has its message's figures, and each column its unit."""
    lines = list(stream(config(2), 40, actions=True))
    path = record(tmp_path / "run.rec", config(2), iter(lines))
    done = CliRunner().invoke(main, ["export", str(path), "--parquet", str(tmp_path / "run.parquet")])
    assert done.exit_code == 0, done.output
    messages = [decode_message(one) for one in lines]
    tables = {name: pq.read_table(tmp_path / f"run.{name}.parquet") for name in ("samples", "decisions", "actions")}
    decisions = [(one, target) for one in messages if isinstance(one, Decision) for target in one.targets]
    table = tables["decisions"]
    assert table["limit_kbit"].to_pylist() == [target.limit for _, target in decisions]
    assert [one.value for one in table["end"]] == [one.end for one, _ in decisions]
    assert tables["actions"]["id"].to_pylist() == [one.id for one in messages if isinstance(one, Action)]
    samples = [one for one in messages if isinstance(one, Sample)]
    assert tables["samples"].num_rows == sum(len(one.critical) + len(one.targets) for one in samples)
    critical = [row for row in tables["samples"].to_pylist() if row["role"] == "critical"]
    assert [row["p95_s"] for row in critical] == [one.critical[0].p95 for one in samples]
    assert [row["no_data"] for row in critical] == [one.no_data for one in samples]
    assert tables["samples"].schema.field("p95_s").metadata[b"unit"] == b"s"


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    """It is named; an empty recording gives empty tables and exit code 1."""
    path = record(tmp_path / "run.rec", config(), iter(()))
    done = CliRunner().invoke(main, ["export", str(path), "--parquet", str(tmp_path / "none" / "run.parquet")])
    assert done.exit_code == 3
    assert "none/run" in done.stderr
    empty = CliRunner().invoke(main, ["export", str(path), "--parquet", str(tmp_path / "run.parquet")])
    assert empty.exit_code == 1
    assert pq.read_table(tmp_path / "run.samples.parquet").num_rows == 0
