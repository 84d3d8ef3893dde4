"""``sluice check``: what a configuration would control, what is unwise in it, and what works from here."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.config import Config
from schemas.domain import Domain
from schemas.units import encode_unit
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load, with_default_kubeconfig
from services.sampler.source import Lag
from services.sampler.source_factory import check_source, source_class
from services.tools.check.advice import advice
from services.tools.check.cluster_rules import Finding
from services.tools.check.connectivity import Look, look, sees


class Report(Struct, frozen=True):
    """All that was found."""

    config: Config
    lag: Lag
    looks: tuple[Look, ...]
    findings: tuple[Finding, ...]
    """Errors first."""

    def works(self, *, strict: bool) -> bool:
        """Whether there is no error; strict: no warning either, and everything was reached."""
        if strict:
            return not self.findings and all(one.reached for one in self.looks)
        return all(one.level != "error" for one in self.findings)


@click.command("check")
@click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--offline", is_flag=True, help="Do not look at the bus and the source of measurements.")
@click.option("--cluster", is_flag=True, help="Look at the cluster, too: whether limits would hold there.")
@click.option("--strict", is_flag=True, help="Warnings, and servers that cannot be reached, count as errors.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(path: Path, offline: bool, cluster: bool, strict: bool, as_json: bool) -> None:
    """Check a configuration before it is used.

    Exit code 0: it works, as far as can be seen from here.  1: it is invalid, or something in it would
    not work.  2: the command was wrong.
    """
    try:
        config = load(path)
        check_source(config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from None
    logging_setup.configure("check", "error")
    looks = [] if offline else asyncio.run(_look(config, cluster=cluster))
    if cluster:
        from services.tools.check.cluster_reader import look_at_cluster  # noqa: PLC0415 - its client is slow to load

        looks.append(asyncio.run(look_at_cluster(with_default_kubeconfig(config))))
    seen = any(one.what == config.signal.source and sees(one) for one in looks)
    found = [*advice(config, seen=seen), *(finding for one in looks for finding in one.findings)]
    found.sort(key=lambda finding: finding.level != "error")
    lag = source_class(config.signal.source).lag(config.signal)
    report = Report(config, lag, tuple(looks), tuple(found))
    if as_json:
        click.echo(msgspec.json.encode(report, enc_hook=encode_unit))
    else:
        _show(Console(), path, report)
    sys.exit(0 if report.works(strict=strict) else 1)


async def _look(config: Config, *, cluster: bool) -> list[Look]:
    if not cluster:
        return await look(config)
    from services.tools.check.api_proxy import reachable  # noqa: PLC0415 - its client is slow to load

    async with reachable(with_default_kubeconfig(config)) as there:
        looks = await look(there)
    if there.signal == config.signal:
        return looks
    addresses = source_class(config.signal.source).addresses
    names = dict(zip(addresses(there.signal), addresses(config.signal), strict=True))
    where = f"{', '.join(names.values())} (through the API server)"
    return [_renamed(one, where, names) if one.what == config.signal.source else one for one in looks]


def _renamed(seen: Look, where: str, names: Mapping[str, str]) -> Look:
    """What was seen at addresses of the moment, told by the configured ones."""
    found = []
    for one in seen.findings:
        text = one.what
        for address, name in names.items():
            text = text.replace(address, name)
        found.append(replace(one, what=text))
    return replace(seen, where=where, findings=tuple(found))


def _show(console: Console, path: Path, report: Report) -> None:
    for domain in report.config.domains:
        _show_domain(console, domain)
    signal, lag = report.config.signal, report.lag
    lag_told = f"a violation shows within {lag.appears:.2g} s, its end within {lag.vanishes:.2g} s"
    lines = [f"[bold]Signal[/]: a window of {signal.window} every {signal.period} by {signal.source}; {lag_told}"]
    for one in report.looks:
        state = "" if one.reached else "not reached from here: "
        lines.append(f"[bold]{one.what.capitalize()}[/] {escape(one.where)}: {state}{escape(one.state)}")
    for finding in report.findings:
        colour = "red" if finding.level == "error" else "yellow"
        lines.append(f"[{colour}]{finding.level}[/] {escape(finding.where)}: {escape(finding.what)}")
    for line in [*lines, _verdict(path, report.findings, report.looks)]:
        console.print(line, soft_wrap=True, highlight=False)


def _show_domain(console: Console, domain: Domain) -> None:
    capacity = f", together at most {domain.capacity}" if domain.capacity is not None else ""
    shadow = f", in the shadow {', '.join(domain.shadow)}" if domain.shadow else ""
    shield = domain.shield
    console.print(
        f"[bold]Domain {escape(domain.name)}[/]: policy {domain.policy}{shadow}{capacity}; limits rise by at most "
        f"{shield.rise_per_second:.0%} of their range a second, a violation cuts them to {shield.cut:.0%}; "
        f"fail-safe after {domain.dead_man} without a decision",
        soft_wrap=True,
        highlight=False,
    )
    critical = _table("protects", "jitter at most", "P95 at most", "observations at least")
    for one in domain.critical:
        critical.add_row(escape(one.key), str(one.jitter), str(one.p95), str(domain.min_observations))
    targets = _table("limits", "from", "to", "fail-safe", "weight", "the limit is")
    for target in domain.targets:
        scope = "per pod" if target.scope == "per-pod" else "for all replicas"
        bounds = (str(target.min), str(target.max), str(target.fail_safe), str(target.weight))
        targets.add_row(escape(target.key), *bounds, scope)
    console.print(critical, targets)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _verdict(path: Path, findings: Sequence[Finding], looks: Sequence[Look]) -> str:
    errors = sum(finding.level == "error" for finding in findings)
    warnings = len(findings) - errors
    unseen = sum(not one.reached for one in looks)
    if not findings and unseen:
        return f"{escape(str(path))}: nothing found, but {unseen} of {len(looks)} servers were not reached from here"
    if not findings:
        return f"[green]{escape(str(path))}: nothing found[/]"
    return f"{escape(str(path))}: {errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
