"""docs/signals.md agrees with the code: its examples load, and its tables match."""

import re
from pathlib import Path

import yaml

from services.runtime.config_loader import parse
from services.sampler.prometheus.queries import DEFAULTS
from services.sampler.source_factory import open_source
from services.sampler.workloads import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "signals.md").read_text(encoding="utf-8")
DOMAINS = [
    {
        "name": "cell",
        "critical": [{"workload": "robot"}],
        "targets": [{"deployment": "upload", "min": "1M", "max": "9M", "fail_safe": "2M"}],
    }
]


def test_examples_are_configurations() -> None:
    """Each block loads, and a source can be created from it."""
    blocks = re.findall(r"\n\n((?:    .*\n)+)", PAGE)
    assert len(blocks) >= 3
    for block in blocks:
        text = yaml.safe_dump({"domains": DOMAINS, **yaml.safe_load(block)})
        with open_source(parse(text, "docs/signals.md", {})):
            pass


def test_every_preset_is_there_as_it_is() -> None:
    """The table lists the metric, labels and loss counter of each preset."""
    for name, preset in PRESETS.items():
        names = preset.names
        namespace = f"`{names.namespace}`" if names.namespace else "-"
        assert f"| `{name}` | `{names.metric}` | {namespace} | `{names.workload}`" in PAGE
        assert names.lost in PAGE


def test_every_query_is_there_as_it_is() -> None:
    """The table lists the default query of each figure literally."""
    for figure, text in DEFAULTS.items():
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{figure}` |")]
        assert text in row or (figure == "jitter" and text.partition(" - ")[0] in row)
