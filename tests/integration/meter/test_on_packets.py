"""The meter beside the wire, on real packets through veth devices with host routes."""

import pytest

from services.bench.signals.meter import measure_on_packets


@pytest.mark.root
def test_the_meter_counts_what_pods_offer() -> None:
    """It counts datagrams to the byte, also those that a limit drops, and TCP without the headers of joined segments.

    Neighbour discovery adds some packets now and then.
    """
    cases = measure_on_packets(1, brief=True)["cases"]
    assert len(cases) == 7
    for name, case in cases.items():
        if case["offered"] is not None:
            assert case["meter"] == pytest.approx(case["offered"], rel=0.002, abs=2000), name
        elif name != "TCP at the limit":
            # With joined segments one head of 66 bytes stands for up to forty.
            assert 0.94 * case["wire"] < case["meter"] < 1.01 * case["wire"], name
    assert cases["UDP under the limit"]["wire"] == pytest.approx(cases["UDP under the limit"]["meter"], abs=2000)
    dropped = cases["UDP at twice the limit"]
    assert dropped["wire"] < 0.9 * dropped["meter"]
    sent_again = cases["TCP at the limit"]
    assert sent_again["wire"] - 2000 <= sent_again["meter"] < 1.5 * sent_again["wire"]
    alone = cases["TCP, every packet alone"]
    assert alone["meter"] == pytest.approx(alone["wire"], abs=2000)
