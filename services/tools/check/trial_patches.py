"""Tries one patch on each target, and on one of its Pods, as the actuator would send it.  Nothing is changed.

A policy, a webhook or missing rights show before the first limit is needed.  Where the actuator's account exists, and
the user may act in its place, the server judges the patch as that account's.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import convert

from schemas.domain import Target
from schemas.units import Rate
from services.actuator.ownership import KEY, build_patch
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH, ApiFailure, NotFound, Pod, Rejected, StaleObject, Workload
from services.kube.target_pods import list_pods, read_object
from services.tools.check.cluster_rules import Finding

ACCOUNT = "system:serviceaccount:sluice:sluice-actuator"
_ACCOUNT_PATH = "/api/v1/namespaces/sluice/serviceaccounts/sluice-actuator"
_RECORD = "{}"


async def try_patches(api: KubeClient, targets: Mapping[str, Target]) -> list[Finding]:
    """Try a patch on each target that exists; returns what would go wrong."""
    try:
        await api.read_json(_ACCOUNT_PATH)
        account: str | None = ACCOUNT
    except ApiFailure:
        account = None
    found: list[Finding] = []
    for target in targets.values():
        try:
            workload = await read_object(api, target)
            pods = await list_pods(api, target, workload)
        except ApiFailure:
            continue  # reported as missing, or as not readable
        owned = [pod for pod in pods if not (pod.has_ended or pod.is_terminating)]
        objects: list[Workload | Pod] = [workload, *owned[:1]]
        for obj in objects:
            found += await _try_patch(api, obj, str(Rate(int(target.fail_safe))), account)
    return found


async def _try_patch(api: KubeClient, obj: Workload | Pod, value: str, account: str | None) -> list[Finding]:
    meta = obj.metadata
    where = f"{obj.kind.lower()} {meta.namespace}/{meta.name}"
    for is_last in (False, True):
        path = obj.path(meta.namespace, meta.name)
        before = await api.read_json(path)
        seen = convert(before, type=type(obj))
        try:
            after = await api.try_patch(path, build_patch(seen, {BANDWIDTH: value, KEY: _RECORD}), account)
        except NotFound:
            return []
        except StaleObject as error:
            if is_last:
                return [_explain_refusal(where, error, account)]
        except ApiFailure as error:
            if account is not None and "impersonate" in str(error):
                text = f"a trial patch could not be sent in the place of {account}: {error}"
                return [Finding("warning", where, text), *await _try_patch(api, obj, value, None)]
            return [_explain_refusal(where, error, account)]
        else:
            return list(_compare(where, before, after, value))
    return []


def _explain_refusal(where: str, error: ApiFailure, account: str | None) -> Finding:
    text = str(error)
    if "does not support dry run" in text:
        return Finding("warning", where, f"an admission webhook keeps a trial patch from being tried: {text}")
    if account is None and isinstance(error, Rejected) and "cannot patch resource" in text:
        return Finding("warning", where, f"no patch was tried, because you may not send one: {text}")
    return Finding("error", where, f"a trial patch was refused, so no limit can be set: {text}")


def _compare(where: str, before: Any, after: Any, value: str) -> Iterator[Finding]:
    """What admission webhooks made of a patch."""
    annotations = after["metadata"].get("annotations") or {}
    for key, wanted, name in ((BANDWIDTH, value, repr(value)), (KEY, _RECORD, "Sluice's record")):
        if (got := annotations.get(key)) != wanted:
            text = f"a trial patch came back with {got!r} instead of {name}"
            yield Finding("error", where, f"{text}: an admission webhook changes it, so no limit can be set")
    stamps = []
    for part in ("annotations", "labels"):
        old, new = (tree["metadata"].get(part) or {} for tree in (before, after))
        changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} - {BANDWIDTH, KEY}
        stamps += [f"{part[:-1]} {key}" for key in sorted(changed)]
    if stamps:
        text = f"an admission webhook changes {', '.join(stamps)} with every update"
        yield Finding("warning", where, f"{text}: allow it in `stamped` of components/admission, if you use that")
