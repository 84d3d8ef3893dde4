"""Asks each service that runs in the cluster what it is waiting for: its ``/readyz``, through the API server.

A source of measurements, the bus or Relay may answer here and not where the services run, or the other way round.
"""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

from msgspec import Struct, json

from schemas.config import Config
from schemas.decode_errors import DECODE_ERRORS
from services.kube.access import KubeConfigError
from services.kube.client import KubeClient
from services.kube.objects import ApiFailure
from services.sampler.source_factory import source_class
from services.tools.check.cluster_reader import parse_service
from services.tools.check.cluster_rules import Finding
from services.tools.check.connectivity import CheckResult

_HOME = "sluice"
_NAMES = tuple(f"sluice-{name}" for name in ("sampler", "decision", "actuator", "exporter", "meter"))
_NAME = "app.kubernetes.io/name"
_SELECTOR = quote(f"{_NAME} in ({','.join(_NAMES)})")
_MOST = 10
"""Pods of one service that are asked, those first that are not ready."""


class Readiness(Struct, frozen=True):
    """The answer of a service's ``/readyz``."""

    ready: bool
    wrong: dict[str, str] = {}
    notes: dict[str, str] = {}


async def check_services(config: Config) -> CheckResult | None:
    """Ask the services that run; None where there are none, as before the install."""
    found, states, signal = list[Finding](), list[str](), config.signal
    try:
        async with KubeClient.connect(config.kubernetes) as api:
            # In the namespaces that the configuration's addresses name.
            addresses = [*config.bus.servers, *source_class(signal.source).addresses(signal), *signal.scrape.meters]
            named = {service.partition("/")[0] for one in addresses if (service := parse_service(one)) is not None}
            paths = [
                f"/api/v1/namespaces/{one}/pods?labelSelector={_SELECTOR}&limit=500" for one in sorted({_HOME, *named})
            ]
            pods = [pod for path in paths for pod in (await api.read_json(path))["items"]]
            for name in _NAMES:
                ours = [pod for pod in pods if pod["metadata"]["labels"][_NAME] == name]
                running = [
                    pod
                    for pod in ours
                    if (pod.get("status") or {}).get("phase") == "Running"
                    and "deletionTimestamp" not in pod["metadata"]
                ]
                asked = sorted(running, key=_is_ready)[:_MOST]
                answers = await asyncio.gather(*(_ask(api, pod) for pod in asked))
                for pod, answer in zip(asked, answers, strict=True):
                    found += _judge(pod, answer)
                if ours:
                    count = sum(not isinstance(one, str) for one in answers)
                    states.append(f"{name.removeprefix('sluice-')} {count} of {len(ours)}")
    except (KubeConfigError, ApiFailure):
        return None  # the check of the cluster reports it
    if not states:
        return None
    return CheckResult("services", "/readyz read from", ", ".join(states), reached=True, findings=tuple(found))


def _is_ready(pod: Any) -> bool:
    """Whether the kubelet, whose probe asks from the pod's node, finds it ready."""
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _find_port(pod: Any) -> int:
    ports = [port for one in pod["spec"]["containers"] for port in one.get("ports") or ()]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == "http"), 0)


async def _ask(api: KubeClient, pod: Any) -> Readiness | str:
    """What a Pod answers, or why it was not asked."""
    meta, port = pod["metadata"], _find_port(pod)
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}:{port}/proxy/readyz"
    try:
        body, refusal = await api.fetch(path), "no answer of ours"
    except ApiFailure as error:
        # What is not ready answers 503 with its reasons.
        body, refusal = error.body, str(error)
    try:
        return json.decode(body, type=Readiness)
    except DECODE_ERRORS:
        return refusal


def _judge(pod: Any, answer: Readiness | str) -> Iterator[Finding]:
    """What is wrong with a service; without its answer, by its kubelet alone."""
    meta = pod["metadata"]
    where = f"pod {meta['namespace']}/{meta['name']}"
    # Without a meter throughput is missing; without any other service limits do not move.
    level: Literal["error", "warning"] = "warning" if meta["labels"][_NAME] == "sluice-meter" else "error"
    if isinstance(answer, Readiness):
        for condition, reason in answer.wrong.items():
            yield Finding(level, where, f"not ready: {condition}: {reason}")
        for about, text in answer.notes.items():
            yield Finding("warning", where, f"{about}: {text}")
    elif not _is_ready(pod):
        port = _find_port(pod)
        text = f"not ready, and the API server does not reach it to ask why ({answer})"
        remedy = f"kubectl -n {meta['namespace']} port-forward {meta['name']} {port}, then see localhost:{port}/readyz"
        yield Finding(level, where, f"{text}: {remedy}")
