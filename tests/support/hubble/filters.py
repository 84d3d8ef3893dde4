"""Hubble's rules for the filters and the field mask of a request."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from services.exporter.observer_pb2 import Endpoint, Flow, FlowFilter, TCPFlags

Rule = Callable[[FlowFilter, Flow], bool]


def passes(whitelist: Sequence[FlowFilter], blacklist: Sequence[FlowFilter], flow: Flow) -> bool:
    """Whether a request with these lists receives the flow."""
    wanted = not whitelist or any(_matches(one, flow) for one in whitelist)
    return wanted and not any(_matches(one, flow) for one in blacklist)


def _matches(wanted: FlowFilter, flow: Flow) -> bool:
    # An empty filter matches everything, as an empty set of conditions does.
    return all(rule(wanted, flow) for field, rule in _RULES.items() if len(getattr(wanted, field)))


def _pod(names: Iterable[str], endpoint: Endpoint) -> bool:
    for name in names:
        namespace, slash, prefix = name.rpartition("/")
        if (namespace if slash else "default") == endpoint.namespace and endpoint.pod_name.startswith(prefix):
            return True
    return False


def _workload(wanted: Iterable[Any], endpoint: Endpoint) -> bool:
    return any(
        (not one.name or one.name == has.name) and (not one.kind or one.kind == has.kind)
        for has in endpoint.workloads
        for one in wanted
    )


def _event(wanted: FlowFilter, flow: Flow) -> bool:
    event = flow.event_type
    return any(
        (not one.type or one.type == event.type) and (not one.match_sub_type or one.sub_type == event.sub_type)
        for one in wanted.event_type
    )


def _flags(wanted: FlowFilter, flow: Flow) -> bool:
    if not flow.l4.HasField("TCP"):
        return False
    has = flow.l4.TCP.flags
    names = [field.name for field in TCPFlags.DESCRIPTOR.fields]
    return any(all(getattr(has, name) for name in names if getattr(one, name)) for one in wanted.tcp_flags)


def _ports(flow: Flow) -> tuple[str, str]:
    transport = flow.l4.TCP if flow.l4.HasField("TCP") else flow.l4.UDP
    return str(transport.source_port), str(transport.destination_port)


def _reply(wanted: FlowFilter, flow: Flow) -> bool:
    if not flow.HasField("is_reply"):
        return False
    return flow.is_reply.value in wanted.reply


_RULES: dict[str, Rule] = {
    "source_pod": lambda wanted, flow: _pod(wanted.source_pod, flow.source),
    "destination_pod": lambda wanted, flow: _pod(wanted.destination_pod, flow.destination),
    "source_workload": lambda wanted, flow: _workload(wanted.source_workload, flow.source),
    "destination_workload": lambda wanted, flow: _workload(wanted.destination_workload, flow.destination),
    "verdict": lambda wanted, flow: flow.verdict in wanted.verdict,
    "event_type": _event,
    "protocol": lambda wanted, flow: (flow.l4.WhichOneof("protocol") or "").lower() in wanted.protocol,
    "source_port": lambda wanted, flow: _ports(flow)[0] in wanted.source_port,
    "destination_port": lambda wanted, flow: _ports(flow)[1] in wanted.destination_port,
    "reply": _reply,
    "tcp_flags": _flags,
    "node_name": lambda wanted, flow: any(fnmatchcase(flow.node_name, pattern) for pattern in wanted.node_name),
    "traffic_direction": lambda wanted, flow: flow.traffic_direction in wanted.traffic_direction,
}


class InvalidMask(ValueError):
    """A path to a field that a flow does not have."""


def apply_mask(paths: Sequence[str], flow: Flow) -> Flow:
    """The part of a flow that a field mask keeps.

    As in Hubble, a path through a message creates that message even if the flow has
    none, so a wrapper's ``value`` would read as false instead of absent, and of two members of a oneof
    the last would win.

    Raises:
        InvalidMask: no such path.
    """
    left = Flow()
    for path in paths:
        _copy(path.split("."), flow, left)
    return left


def _copy(path: Sequence[str], source: Any, target: Any) -> None:
    name, *rest = path
    field = source.DESCRIPTOR.fields_by_name.get(name)
    if field is None or (rest and (field.message_type is None or field.is_repeated)):
        raise InvalidMask(".".join(path))
    if rest:
        inner = getattr(target, name)
        inner.SetInParent()
        _copy(rest, getattr(source, name), inner)
    elif field.is_repeated:
        getattr(target, name).extend(getattr(source, name))
    elif field.message_type is not None:
        if source.HasField(name):
            getattr(target, name).CopyFrom(getattr(source, name))
    else:
        setattr(target, name, getattr(source, name))
