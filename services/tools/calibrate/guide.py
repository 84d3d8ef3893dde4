"""The guided run: listen to a bus for a while, and say what is still missing for a proposal."""

import time

from services.tools.calibrate.calibration import calibrate
from services.tools.calibrate.readings import Readings
from services.tools.common.bus_reader import MessageRange
from services.tools.common.message_source import MessageSource
from services.tools.common.output import print_warning

_EVERY_S = 15.0
"""From one word of guidance to the next."""


def wait_for_samples(source: MessageSource, since: int, seconds: float, domains: tuple[str, ...]) -> int:
    """Wait until so many seconds have passed since ``since`` (UTC ns); says what is missing.  Returns the end, UTC ns.

    It only reads: whatever is live stays in control.  To fill the link, somebody has to send.

    Raises:
        CommandError: the bus cannot be read.
    """
    end = since + round(seconds * 1e9)
    while (left := (end - time.time_ns()) / 1e9) > 0:
        time.sleep(min(left, _EVERY_S))
        if time.time_ns() < end:
            readings = Readings(source.domains)
            kinds = ("sample", "definition", "decision")
            scope = MessageRange(kinds, since=since, domains=domains, with_past_definitions=True)
            source.process(scope, readings.add)
            print_warning(f"{(end - time.time_ns()) / 1e9:.0f} s to go: {describe_progress(readings)}")
    return end


def describe_progress(readings: Readings) -> str:
    """What is known so far of each domain, and what is missing."""
    states = []
    for name, one in sorted(readings.by_name.items()):
        capacity = calibrate(one).figures[0]
        advice = ""
        if capacity.bound:
            advice = "; to see where it ends, let best effort send more"
        states.append(f"{name}: {one.samples} samples; {capacity.why}{advice}")
    return "; ".join(states) or "no domain yet"
