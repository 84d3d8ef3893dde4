"""A proposal as YAML that ``sluice check`` accepts: a part of a configuration file, or resources."""

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml
from msgspec import Struct, structs

from schemas.domain import Domain
from schemas.units import Duration, Rate
from services.resources.file import write_resources
from services.tools.calibrate.proposal import Proposal, apply_proposal
from services.tools.common.output import escape_line

_HEAD = "# Proposed by sluice calibrate. Nothing is applied: check it, edit it, and put it into use yourself.\n"


def write_snippet(proposals: Iterable[tuple[Domain, Proposal]], *, as_resources: bool) -> str:
    """Write the domains with the proposed values in place, and why as comments.

    Raises:
        ValueError: a proposal gives no valid domain.
    """
    chosen = list(proposals)
    domains = [apply_proposal(domain, proposal) for domain, proposal in chosen]
    comments = "".join(f"#\n{explain_figures(proposal)}" for _, proposal in chosen)
    if as_resources:
        return _HEAD + comments + write_resources(domains)
    return _HEAD + comments + yaml.safe_dump({"domains": [_to_tree(one) for one in domains]}, sort_keys=False)


def explain_figures(proposal: Proposal) -> str:
    """Every figure's value, confidence and reason as comments."""
    lines = [f"{proposal.domain}: {proposal.samples} samples in {proposal.seconds:.0f} s"]
    for figure in proposal.figures:
        name = f"{figure.key} {figure.setting}".strip()
        lines.append(f"  {name} {figure.describe_value()} ({figure.confidence}): {figure.why}")
    return "".join(f"# {escape_line(line)}\n" for line in [*lines, *(f"  {note}" for note in proposal.notes)])


def _to_tree(value: Any) -> Any:
    """A part of a configuration as the file has it, without what is a default."""
    if isinstance(value, Struct):
        found = {}
        for field in structs.fields(value):
            factory = field.default_factory
            default = factory() if factory is not msgspec.NODEFAULT else field.default
            item = getattr(value, field.name)
            if item != default:
                found[field.encode_name] = _to_tree(item)
        return found
    if isinstance(value, list | tuple):
        return [_to_tree(item) for item in value]
    return str(value) if isinstance(value, Rate | Duration) else value
