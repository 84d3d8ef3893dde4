"""Put together a domain's proposal: queues, then capacity, limits and objectives."""

from services.tools.calibrate.capacity import estimate_capacity
from services.tools.calibrate.limits import propose_limits
from services.tools.calibrate.objectives import propose_objectives
from services.tools.calibrate.proposal import Figure, Proposal
from services.tools.calibrate.queue import find_queues
from services.tools.calibrate.readings import DomainReadings


def calibrate(of: DomainReadings) -> Proposal:
    """Propose the settings of one domain; where nothing was measured, every figure says so."""
    notes: list[str] = []
    figures: list[Figure] = []
    if of.readings:
        queues = find_queues(of)
        capacity = estimate_capacity(of, queues)
        figures = [capacity.figure, *propose_limits(of, queues, capacity), *propose_objectives(of, queues)]
        notes += capacity.notes
        if queues.brief:
            spans = ", ".join(str(one) for one in queues.brief[:3]) + (", ..." if len(queues.brief) > 3 else "")
            notes.append(
                f"the P95 of all workloads rose without a lasting queue in {len(queues.brief)} of the windows (seconds "
                f"{spans}): bursts, stalls or outliers, which limits do not prevent"
            )
        if not of.is_recent:
            notes.append("the source measures whole windows only: short queues are blurred")
    else:
        why = "there is no sample" if not of.samples else "no sample has data"
        domain = of.domain
        figures.append(Figure(setting="capacity", configured=domain.capacity, confidence="none", why=why))
    return Proposal(
        domain=of.domain.name,
        seconds=(of.last - of.first) / 1e9 if of.samples else 0.0,
        begin=of.first,
        samples=of.samples,
        blind=of.blind,
        figures=tuple(figures),
        notes=tuple(notes),
    )
