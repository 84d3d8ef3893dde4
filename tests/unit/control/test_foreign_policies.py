"""A policy of ten lines, in a package of its own, is used everywhere by its name; a broken one harms nobody."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from schemas.messages import CriticalMeasure, Sample, TargetMeasure
from services.bench.policies import simulated
from services.control import Controller, make_policy
from services.control.policies import find_policy, policy_names
from services.decision.domain_worker import TimedPolicy
from services.plant.commands import demo, factory
from services.plant.scenario import SCENARIOS
from services.resources.manifest import InvalidResource, read_domain
from services.runtime.config_loader import ConfigError, parse
from services.tools.replay import command as replay

GOLDEN = Path(__file__).parents[2] / "golden" / "factory-proportional.jsonl.zst"
_PAGE = (Path(__file__).parents[3] / "docs" / "write-a-policy.md").read_text(encoding="utf-8")
HALF, HALF_PROJECT = (re.search(f"```{kind}\n(.*?)```", _PAGE, re.DOTALL)[1] for kind in ("python", "toml"))  # type: ignore[index]
"""The files that the page tells its reader to write."""
BROKEN = """
from schemas.settings import Settings
from services.control.policy import NoMemory, Proposal

class Broken:
    version, memory_type, parameters_type = "broken/1", NoMemory, Settings
    def __init__(self, domain):
        pass

class Raises(Broken):
    def propose(self, memory, seen, bounds):
        return 1 // 0

class Nothing(Broken):
    def propose(self, memory, seen, bounds):
        return None

class Fraction(Broken):
    def propose(self, memory, seen, bounds):
        return Proposal(float("nan"), "no number", memory)

class Liar(Broken):
    def propose(self, memory, seen, bounds):
        return Proposal(10**12, "all is well", memory)

class Stranger(Broken):
    def propose(self, memory, seen, bounds):
        return Proposal(1, "another's memory", object())

class Loop(Broken):
    def propose(self, memory, seen, bounds):
        while True:
            try:
                pass
            except Exception:
                pass

class NoClass:
    version = "x/1"
"""
S = 10**9
DOMAIN = SCENARIOS["steady"].domain()


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two installed packages: one with an entry point, one with classes only."""
    (tmp_path / "half_policy.py").write_text(HALF, encoding="utf-8")
    (tmp_path / "broken_policies.py").write_text(BROKEN, encoding="utf-8")
    # What an installer makes of the page's pyproject.toml.
    project = tomllib.loads(HALF_PROJECT)["project"]
    about = tmp_path / f"half_policy-{project['version']}.dist-info"
    about.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(metadata, encoding="utf-8")
    groups = project["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in each.items()) for group, each in groups.items()
    ]
    (about / "entry_points.txt").write_text("".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def sample(end: int) -> Sample:
    """A sample of the steady factory, with nothing delayed."""
    critical = tuple(
        CriticalMeasure(one.key, 0.0001, 0.0003, 500, throughput=10_000, recent=10_000, recent_p50=0.0002)
        for one in DOMAIN.critical
    )
    targets = tuple(TargetMeasure(one.key, 40_000, 40_000, 1) for one in DOMAIN.targets)
    return Sample(DOMAIN.name, end - 2 * S, end, S // 2, "test", critical, targets)


def test_it_is_listed_and_loaded_by_either_name() -> None:
    """By its entry point, and as ``module:Class``."""
    assert "half" in policy_names()
    assert find_policy("half") is find_policy("half_policy:Half")
    assert make_policy(replace(DOMAIN, policy="half")).version == "half/1"
    decision = Controller(replace(DOMAIN, policy="half")).step(None, sample(100 * S))
    assert (decision.policy, decision.reason, decision.fault) == ("half/1", "half of the link", None)


def test_a_configuration_names_it_in_control_and_in_shadow() -> None:
    """A name that no package has is an error at its place, and so is a parameter that it does not take."""
    text = """domains:
- name: line
  critical: [{workload: robot}]
  targets: [{deployment: upload, min: 1M, max: 9M, fail_safe: 2M}]
  policy: half
  shadow: ["half_policy:Half", learned]
"""
    (domain,) = parse(text, "f", {}).domains
    assert (domain.policy, domain.shadow) == ("half", ("half_policy:Half", "learned"))
    with pytest.raises(ConfigError, match=r"there is no policy 'hafl' .*aimd.*half"):
        parse(text.replace("policy: half", "policy: hafl"), "f", {})
    for name, why in (
        ("nowhere:Half", "no module 'nowhere' is installed here"),
        ("half_policy:Hafl", "the module 'half_policy' has no 'Hafl'"),
    ):
        with pytest.raises(ConfigError, match=f"cannot be loaded: {why}"):
            parse(text.replace("half_policy:Half", name), "f", {})
    with pytest.raises(ConfigError, match="parameters"):
        parse(text + "  parameters: {share: 0.5}\n", "f", {})


def test_a_resource_names_installed_policies_only() -> None:
    """Whoever may write one must not choose what the decision service imports."""
    spec = {
        "critical": [{"workload": "robot"}],
        "targets": [{"deployment": "upload", "min": "1M", "max": "9M", "failSafe": "2M"}],
        "policy": "half",
    }
    assert read_domain("plant", "line", spec).policy == "half"
    for wrong in ({"policy": "half_policy:Half"}, {"shadow": ["nowhere_at_all:Half"]}):
        with pytest.raises(InvalidResource, match="a resource names a policy, not a module and a class"):
            read_domain("plant", "line", spec | wrong)


def test_replay_bench_demo_and_factory_take_it() -> None:
    """By name; a mistake is an error of the option."""
    replayed = CliRunner().invoke(replay.command, [str(GOLDEN), "--policy", "half", "--json"])
    assert "half" in json.loads(replayed.stdout)["variants"], replayed.output
    chosen = ["--policy", "half", "--policy", "half_policy:Half", "--scenario", "demo", "--seeds", "1"]
    benched = CliRunner().invoke(simulated.command, [*chosen, "--no-speed", "--no-bound"])
    assert benched.exit_code == 0, benched.output
    assert "half_policy:Half" in benched.output
    for command in (demo.command, factory.command, replay.command):
        option = next(one for one in command.params if one.name in ("policy", "policies"))
        assert option.type.convert("half", option, None) == "half"
    refused = CliRunner().invoke(replay.command, [str(GOLDEN), "--policy", "hafl"])
    assert refused.exit_code == 2
    assert "no policy 'hafl'" in refused.output


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("broken_policies:NoClass", "its memory_type is no msgspec.Struct"),
        ("broken_policies:S", "has no 'S'"),
        ("json:dumps", "it is no class"),
        ("pathlib:Path", "its version is not a text"),
    ],
)
def test_what_is_no_policy_is_refused(name: str, mistake: str) -> None:
    """Before it is asked anything."""
    with pytest.raises(ValueError, match=mistake):
        find_policy(name)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Raises", "raised ZeroDivisionError"),
        ("Nothing", "answered with NoneType"),
        ("Fraction", "no whole number"),
        ("Stranger", "a memory that is not its own"),
    ],
)
def test_a_broken_answer_is_replaced_for_that_step(name: str, fault: str) -> None:
    """By ``proportional``; the decision says why."""
    decision = Controller(replace(DOMAIN, policy=f"broken_policies:{name}")).step(None, sample(100 * S))
    assert fault in (decision.fault or "")
    assert "proportional/1 stands in" in decision.reason


def test_a_lie_ends_at_the_shield() -> None:
    """The limit rises by no more than the shield allows."""
    domain = replace(DOMAIN, policy="broken_policies:Liar")
    controller = Controller(domain)
    first = controller.step(None, sample(100 * S))
    second = controller.step(first.state, sample(100 * S + S // 2))
    rise = second.targets[0].limit - first.targets[0].limit
    assert 0 < rise <= 0.1 * int(domain.targets[0].max)


def test_an_endless_loop_is_interrupted_and_the_next_steps_do_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision of that step is the fallback's, and records what happened; another domain is answered after it."""
    monkeypatch.setattr("services.decision.domain_worker.HANG_S", 0.1)
    domain = replace(DOMAIN, policy="broken_policies:Loop")
    policy = TimedPolicy(make_policy(domain))
    decision = Controller(domain, policy).step(None, sample(100 * S))
    assert decision.fault == "broken/1 raised Interrupted: no answer within 0.1 s"
    assert "proportional/1 stands in" in decision.reason
    assert policy.fault is not None
    replayed: Any = Controller(domain).step(None, sample(100 * S), fault=decision.fault)
    assert replayed == decision
    assert Controller(DOMAIN).step(None, sample(100 * S)).fault is None
