"""``sluice check``: what a configuration would control, what is unwise in it, and what works from this machine."""

import asyncio
import sys
from pathlib import Path

import click
import msgspec
from msgspec import Struct, field
from rich import box
from rich.table import Table
from rich.text import Text

from schemas.config import Config
from schemas.domain import Domain
from schemas.units import encode_unit
from services.resources.file import has_resources, load_resources, write_resources
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load, with_default_kubeconfig
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import ConfigFile
from services.sampler.source import Lag
from services.sampler.source_factory import check_source, source_class
from services.tools.check.advice import advise
from services.tools.check.cluster_rules import Finding
from services.tools.check.connectivity import CheckResult, check_connectivity, is_measured
from services.tools.common.output import CommandError, TerminalConsole, escape_line, print_json

_SHOWN = 50
"""Domains of which tables are shown; more than a person reads take seconds to draw."""


class CheckReport(Struct, frozen=True):
    """The result of a check."""

    config: Config
    lag: Lag
    results: tuple[CheckResult, ...] = field(name="looks")
    findings: tuple[Finding, ...] = field()
    """Errors first."""

    def works(self, *, strict: bool) -> bool:
        """Return whether there is no error; strict: no warning either, and everything was reached."""
        if strict:
            return not self.findings and all(one.reached for one in self.results)
        return all(one.level != "error" for one in self.findings)


@click.command("check")
@click.argument("path", metavar="CONFIG", type=ConfigFile())
@click.option("--offline", is_flag=True, help="Do not look at the bus and the source of measurements.")
@click.option("--cluster", is_flag=True, help="Look at the cluster, too: whether limits would hold there.")
@click.option("--strict", is_flag=True, help="Warnings, and servers that cannot be reached, count as errors.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("--print-resources", is_flag=True, help="Print the file's domains as BandwidthDomain resources, and end.")
def command(path: Path, offline: bool, cluster: bool, strict: bool, as_json: bool, print_resources: bool) -> None:
    """Check a configuration before it is used, or resources of the kind BandwidthDomain.

    Exit code 1: it is invalid, or something in it would not work.
    """
    try:
        config, of_resources = _load_either(path)
        check_source(config)
    except ConfigError as error:
        raise CommandError(error, ExitCode.FINDING) from None
    except ValueError as error:
        raise CommandError(f"{path}: {error}", ExitCode.FINDING) from None
    if print_resources:
        click.echo(write_resources(config.domains), nl=False)
        return
    logging_setup.configure("check", "error")
    offline = offline or of_resources  # whose file says nothing of bus and measurements
    results = []
    if cluster:
        # Its client is slow to load.
        from services.tools.check.api_proxy import check_through_api  # noqa: PLC0415
        from services.tools.check.cluster_reader import check_cluster  # noqa: PLC0415
        from services.tools.check.running_services import check_services  # noqa: PLC0415

        settings = with_default_kubeconfig(config)
        results = [] if offline else asyncio.run(check_through_api(settings))
        results.append(asyncio.run(check_cluster(settings)))
        running = asyncio.run(check_services(settings))
        results += [running] if running is not None else []
    elif not offline:
        results = asyncio.run(check_connectivity(config))
    measured = any(one.what == config.signal.source and is_measured(one) for one in results)
    advice = [] if of_resources else advise(config, measured=measured)
    found = [*advice, *(finding for one in results for finding in one.findings)]
    found.sort(key=lambda finding: finding.level != "error")
    report = CheckReport(config, source_class(config.signal.source).lag(config.signal), tuple(results), tuple(found))
    if as_json:
        print_json(msgspec.json.encode(report, enc_hook=encode_unit))
    else:
        _show_report(TerminalConsole(), path, report, of_resources=of_resources)
    sys.exit(ExitCode.OK if report.works(strict=strict) else ExitCode.FINDING)


def _load_either(path: Path) -> tuple[Config, bool]:
    """The configuration of a file, and whether it holds resources instead: then all but its domains is default.

    Raises:
        ConfigError: it cannot be read, or has mistakes.
        ValueError: two resources share a target.
    """
    try:
        is_of_resources = has_resources(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        is_of_resources = False  # which is reported as for a configuration
    if is_of_resources:
        return Config(domains=load_resources(path)), True
    return load(path), False


def _show_report(console: TerminalConsole, path: Path, report: CheckReport, *, of_resources: bool) -> None:
    domains = report.config.domains
    for domain in domains[:_SHOWN]:
        _show_domain(console, domain)
    if len(domains) > _SHOWN:
        console.print(f"and {len(domains) - _SHOWN} domains more; --json prints all", soft_wrap=True)
    if not of_resources:
        signal, lag = report.config.signal, report.lag
        line = f": a window of {signal.window} every {signal.period} by {signal.source}; "
        shows = f"a violation shows within {lag.appears:.2g} s, its end within {lag.vanishes:.2g} s"
        console.print(Text.assemble(("Signal", "bold"), line, shows), soft_wrap=True)
    for one in report.results:
        state = "" if one.reached else "not reached from here: "
        line = f" {escape_line(one.where)}: {state}{escape_line(one.state)}"
        console.print(Text.assemble((one.what.capitalize(), "bold"), line), soft_wrap=True)
    for finding in report.findings:
        level = (finding.level, "red" if finding.level == "error" else "yellow")
        line = f" {escape_line(finding.where)}: {escape_line(finding.what)}"
        console.print(Text.assemble(level, line), soft_wrap=True)
    works = not report.findings and all(one.reached for one in report.results)
    errors = sum(finding.level == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    summary = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    if not report.findings:
        unreached = sum(not one.reached for one in report.results)
        servers = f", but {unreached} of {len(report.results)} servers were not reached from here"
        summary = f"nothing found{servers if unreached else ''}"
    console.print(f"{path}: {summary}", style="green" if works else None, soft_wrap=True)


def _show_domain(console: TerminalConsole, domain: Domain) -> None:
    capacity = f", together at most {domain.capacity}" if domain.capacity is not None else ""
    per = f", an instance of it per {escape_line(domain.per)}" if domain.per else ""
    shadow = f", in the shadow {', '.join(domain.shadow)}" if domain.shadow else ""
    shield = domain.shield
    console.print(
        Text.assemble(
            (f"Domain {escape_line(domain.name)}", "bold"),
            f"{per}: policy {domain.policy}{shadow}{capacity}; limits rise by at most {shield.rise_per_second:.0%} of "
            f"their range a second, a violation cuts them to {shield.cut:.0%}; fail-safe after {domain.dead_man} "
            "without a decision",
        ),
        soft_wrap=True,
    )
    critical = _new_table("protects", "jitter at most", "P95 at most", "observations at least")
    for one in domain.critical:
        critical.add_row(one.key, str(one.jitter), str(one.p95), str(domain.min_observations))
    targets = _new_table("limits", "from", "to", "fail-safe", "weight", "the limit is")
    for target in domain.targets:
        scope = "per pod" if target.scope == "per-pod" else "for all replicas"
        bounds = (str(target.min), str(target.max), str(target.fail_safe), str(target.weight))
        targets.add_row(target.key, *bounds, scope)
    console.print(critical, targets)


def _new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table
