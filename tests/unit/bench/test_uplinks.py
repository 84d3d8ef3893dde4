"""A limit per node where uplinks differ, on the model: each near its own oracle, where an even share starves one."""

from services.bench.uplinks.command import collect_figures, play_simulated
from services.bench.uplinks.real import EVEN, PER_NODE
from services.bench.uplinks.setting import build_even, build_template
from services.plant.topology import ERP, TELEMETRY


def test_each_node_is_near_its_own_oracle_and_an_even_share_starves_the_larger_one() -> None:
    """One definition, whose instances learn each their own uplink; nobody has told them which is which."""
    results = play_simulated("learned", 120, surprise=False)
    shares = {way: {node: score.share for node, score in scores.items()} for way, scores in results.items()}
    assert min(shares[PER_NODE].values()) > 0.9
    assert shares[EVEN]["node-1"] < 0.7
    bad = sum(score.violation_seconds for score in results[PER_NODE].values())
    assert bad <= 2, "of 118 s"
    figures, bounds = collect_figures(results)
    assert bounds.keys() < figures.keys()
    assert figures["per node, node-1: share of its oracle"] == shares[PER_NODE]["node-1"]


def test_both_ways_have_the_same_workloads() -> None:
    """On an API server one is a DaemonSet; the instances' bounds are one node's, the even share's are all nodes'."""
    template, even = build_template(daemon_set=True), build_even(daemon_set=True)
    assert [one.key for one in template.targets] == [TELEMETRY, ERP.replace("/", "/daemonset/")]
    assert [one.key for one in even.targets] == [one.key for one in template.targets]
    assert template.is_template
    assert not even.is_template
    assert all(whole.fail_safe == 2 * one.fail_safe for whole, one in zip(even.targets, template.targets, strict=True))
