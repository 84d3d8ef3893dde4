"""The scenarios that ``sluice bench factory`` plays, by name: the shipped eight, and three that users reported."""

from services.plant.courses import follow, sine
from services.plant.scenario import NOMINAL, SCENARIOS, Scenario
from services.plant.topology import ERP, SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp

_SWING_S = 180.0
_PERIOD_S = 20.0

REAL_SCENARIOS: dict[str, Scenario] = SCENARIOS | {
    one.name: one
    for one in (
        Scenario(
            name="sine",
            text="The critical load swings by half in 20 s.",
            seconds=_SWING_S,
            # Each change starts or ends processes, so there is one a second.
            events=follow(sine(NOMINAL, NOMINAL / 2, _PERIOD_S), _SWING_S, 1.0, workload=SCANNER),
        ),
        Scenario(
            name="neighbours",
            text="Two targets send as much as they can.",
            seconds=_SWING_S,
            apps=Apps(targets=(TargetApp(TELEMETRY), TargetApp(ERP))),
        ),
        Scenario(
            name="bbr",
            text="The target's connections use BBR, which hardly builds a queue.",
            seconds=_SWING_S,
            apps=Apps(targets=(TargetApp(TELEMETRY, congestion="bbr"),)),
        ),
    )
}
EXTRA = tuple(name for name in REAL_SCENARIOS if name not in SCENARIOS)
