"""A kubelet's ``/metrics/cadvisor``, in the format that kubelets write.

Families with HELP and TYPE; labels by name; figures as Go writes them, so that a million is ``1e+06``; the time of each
count in milliseconds.  The node's own interfaces have empty labels.  A pod's are at its sandbox, which with Docker is a
container called ``POD``; a pod on the host's network has all of the host's.  cAdvisor's package ``metrics`` and the
kubelet's ``containerPrometheusLabelsFunc`` write it.
"""

from collections.abc import Iterable

from msgspec import Struct

HOST = ("cilium_host", "cilium_net", "eth0", "lxc0123456789ab", "lxc_health")
UID = "1cdae767-00ab-4a34-ba55-c2a642098751"
SYSTEMD = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/cri-containerd-{sandbox}.scope"
"""The control group of a sandbox; systemd has the uid with underscores."""
CGROUPFS = "/kubepods/besteffort/pod{uid}/{sandbox}"
FAMILIES = {
    "container_network_receive_bytes_total": "Cumulative count of bytes received",
    "container_network_receive_packets_total": "Cumulative count of packets received",
    "container_network_transmit_bytes_total": "Cumulative count of bytes transmitted",
    "container_network_transmit_packets_total": "Cumulative count of packets transmitted",
}


class Sandbox(Struct, frozen=True):
    """A pod's network, as one of its sandboxes shows it."""

    pod: str
    sent: int
    received: int = 0
    uid: str = UID
    stamp: int | None = 1_795_814_400_000
    """When it was counted, Unix ms; None: a runtime that counts on demand writes no time."""
    interfaces: tuple[str, ...] = ("eth0",)
    """``eth0`` has the counts above, each other one a million bytes."""
    sandbox: str = "9e6914890be9"
    group: str = SYSTEMD
    container: str = ""

    def labels(self, interface: str) -> dict[str, str]:
        """Of one series."""
        uid = self.uid.replace("-", "_") if self.group == SYSTEMD else self.uid
        return {
            "container": self.container,
            "id": self.group.format(uid=uid, sandbox=self.sandbox),
            "image": "registry.k8s.io/pause:3.9",
            "interface": interface,
            "name": self.sandbox,
            "namespace": "factory",
            "pod": self.pod,
        }

    def count(self, family: str, interface: str) -> int:
        """The value of one series."""
        if "packets" in family:
            return 17
        return 10**6 if interface != "eth0" else self.sent if "transmit" in family else self.received


def format_go(value: int) -> str:
    """A number as Go writes it, shortest, with an exponent from a million on."""
    text = str(value)
    if len(text) <= 6:
        return text
    digits = text.rstrip("0")
    return f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e+{len(text) - 1:02}"


def write_page(sandboxes: Iterable[Sandbox], *, more: Iterable[str] = ()) -> list[bytes]:
    """The lines of a page with the host's interfaces, these sandboxes, and further lines in front."""
    lines = [*more]
    host = dict.fromkeys(("container", "id", "image", "interface", "name", "namespace", "pod"), "") | {"id": "/"}
    for family, text in FAMILIES.items():
        lines += [f"# HELP {family} {text}", f"# TYPE {family} counter"]
        lines += [_series(family, host | {"interface": name}, 330_484_503_673, 1_681_685_897_133) for name in HOST]
        lines += [
            _series(family, one.labels(name), one.count(family, name), one.stamp)
            for one in sandboxes
            for name in one.interfaces
        ]
    lines += ["# HELP container_scrape_error 1 if there was an error", "# TYPE container_scrape_error gauge"]
    return [f"{line}\n".encode() for line in (*lines, "container_scrape_error 0")]


def _series(family: str, labels: dict[str, str], value: int, stamp: int | None) -> str:
    text = ",".join(f'{name}="{label}"' for name, label in labels.items())
    return f"{family}{{{text}}} {format_go(value)}{'' if stamp is None else f' {stamp}'}"
