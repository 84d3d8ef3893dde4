"""Probes while the kernel does not know the neighbour's address: it delays them, and reports their times late."""

import json
import subprocess
import sys

import pytest

from services.plant.real.testbed import Bed
from tests.support.hubble.harness import PLACE, SLUICE

pytestmark = [pytest.mark.root, pytest.mark.realtime]

PROBE = """
import json, select, subprocess, sys, time
from pathlib import Path
from services.exporter.prober import ProbeReport, UdpProbe

address, node, device = sys.argv[1:]
gateway = address.rpartition(".")[0] + ".254"
trips, stamps, found = [], [], []
probe = UdpProbe((address, 7007), 2, 64, 10**12, ProbeReport(trips.append, int, str))
probe.connect()
record = probe._echoes.record_sent
probe._echoes.record_sent = lambda sequence, when: (stamps.append(when), record(sequence, when))
find = probe._find_sent_time
probe._find_sent_time = lambda packet: (found.append(find(packet)), found[-1])[1]

def send(number):
    called = []
    for _ in range(number):
        called.append(time.time_ns())
        probe.send()
    return called

def answered(number):
    while len(trips) < number:
        assert select.select([probe._link], [], [], 20)[0], "no answer"
        probe.read()

def ip(*words):
    subprocess.run(["ip", *words], check=True)

# Asks for the address again soon, and does not give up.
for name, value in (("retrans_time_ms", 20), ("mcast_solicit", 500)):
    Path("/proc/sys/net/ipv4/neigh/eth0", name).write_text(str(value))
send(1)
answered(1)
ip("-n", node, "link", "set", device, "arp", "off")
ip("neigh", "del", gateway, "dev", "eth0")
send(3)
ip("-n", node, "link", "set", device, "arp", "on")
# They leave, and the kernel reports when, before the next one is sent or while its answer is waited for.
answered(4)
stamps.clear()
found.clear()
called = []
for number in range(5, 25):
    called += send(1)
    answered(number)
poll = select.poll()
poll.register(probe._link, 0)
early = [at - when for at, when in zip(called, stamps) if when < at]
print(json.dumps({"early": early, "unknown": found.count(None), "remaining": poll.poll(0)}))
"""
"""Sends with the neighbour known, unknown and known again; prints timestamps that are older than their packets."""


def test_a_delayed_packet_keeps_its_own_timestamp() -> None:
    """Each packet has its own send time, and no pending report would wake the prober repeatedly."""
    with Bed() as bed:
        cell = bed.pod("factory/robot-cell")
        echo = bed.start(cell.name, SLUICE, "echo", "--udp", "7007", stdout=subprocess.PIPE)
        assert echo.stdout.readline().startswith(b"listening")
        office = next(place for place in bed.pods if place.name == PLACE)
        output = bed.run(PLACE, sys.executable, "-c", PROBE, cell.address, office.node, office.device)
    assert json.loads(output) == {"early": [], "unknown": 0, "remaining": []}
