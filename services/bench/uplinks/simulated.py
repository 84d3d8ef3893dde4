"""Both ways on the simulated plant: seconds of processor time for minutes of traffic."""

from msgspec.structs import replace

from schemas.messages import Decision
from services.bench.uplinks.pair import PlantPair
from services.bench.uplinks.setting import Uplink, build_even, build_template
from services.control import Controller
from services.plant.score import Score, score
from services.plant.simulated.closed_loop import START, ClosedLoop, Delays, play
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.signal_profiles import PROFILES, SHIPPED

_DELAYS = Delays.of(PROFILES[SHIPPED])


def play_per_node(
    uplinks: tuple[Uplink, ...], policy: str, since: float, seed: int = 0
) -> tuple[dict[str, Score], list[Decision]]:
    """Control each node by its own instance; gives the scores by node, and all decisions."""
    template, scores, decisions = build_template(policy), {}, list[Decision]()
    for number, one in enumerate(uplinks):
        domain = template.build_instance(one.node, ())
        run = play(one.scenario, domain, Controller(domain), delays=_DELAYS, seed=seed + number)
        scores[one.node] = run.score(since)
        decisions += run.decisions
    return scores, decisions


def play_even(uplinks: tuple[Uplink, ...], policy: str, since: float, seed: int = 0) -> dict[str, Score]:
    """Control both nodes by one limit that is divided evenly; gives the scores by node."""
    domain = build_even(policy)
    hz = _DELAYS.probe_hz
    apps = {one.node: one.scenario.apps if hz is None else one.scenario.apps.with_probes(hz) for one in uplinks}
    plants = {
        one.node: SimulatedPlant.for_apps(apps[one.node], None, seed + number, START)
        for number, one in enumerate(uplinks)
    }
    pair = PlantPair(plants)
    # The nodes' scanners have loads of their own: each plant plays its own events, at the same times.
    plan = {one.node: list(one.scenario.events) for one in uplinks}
    loop = ClosedLoop(replace(uplinks[0].scenario, events=()), domain, Controller(domain), _DELAYS, pair, seed)
    pods = {target.key: sum(pod.target == target.key for pod in pair.pods) for target in domain.targets}
    loop.start({target.key: target.fail_safe // pods[target.key] for target in domain.targets})
    while loop.run_to_sample() is not None:
        for node, events in plan.items():
            while events and START + round(events[0].at * 1e9) <= pair.now:
                for workload, load in events.pop(0).loads.items():
                    plants[node].set_load(workload, load)
        loop.decide()
    scored = replace(build_template(policy), per=domain.per)
    return {one.node: score(pair.seconds[one.node], scored, one.scenario, START, since) for one in uplinks}
