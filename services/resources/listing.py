"""Lists once what commands have to know of the cluster's domains: the resources, and the workloads that would join."""

from collections.abc import Iterable
from typing import Protocol

from msgspec import structs

from schemas.config import Config
from schemas.domain import Domain, Target
from services.definitions.enrolment import LABEL, Applicant, find_places, join, label_of
from services.kube.changes import T
from services.kube.objects import NotFound
from services.kube.workloads import WORKLOADS
from services.resources.manifest import InvalidResource, read_domain
from services.resources.objects import BandwidthDomain


class DomainLister(Protocol):
    """What listing needs of the API client."""

    async def list_by_labels(self, kind: type[T], namespace: str, selector: str) -> tuple[T, ...]:
        """List the objects that a label selector matches."""


async def list_domains(client: DomainLister, config: Config) -> tuple[Domain, ...]:
    """The file's domains and the resources', each with the workloads that carry its label.

    Resources that describe no domain are left out, and so is what workloads ask for by annotations.

    Raises:
        Rejected: listing is not allowed.
        Unavailable: the API server does not answer.
    """
    settings, found = config.kubernetes.resources, list(config.domains)
    if settings.enabled:
        found += _read_all(await _list_resources(client, settings.namespace or ""), settings.trusted)
    return tuple([await _add_joined(client, one) for one in found])


async def _list_resources(client: DomainLister, namespace: str) -> tuple[BandwidthDomain, ...]:
    try:
        return await client.list_by_labels(BandwidthDomain, namespace, "")
    except NotFound:
        return ()  # the kind is not installed


def _read_all(resources: Iterable[BandwidthDomain], trusted: Iterable[str]) -> list[Domain]:
    found = []
    for one in resources:
        try:
            found.append(read_domain(one.metadata.namespace, one.metadata.name, one.spec, tuple(trusted)))
        except InvalidResource:
            continue
    return found


async def _add_joined(client: DomainLister, domain: Domain) -> Domain:
    wanted = label_of(domain.name)
    applicants = [
        Applicant(kind, namespace, obj.metadata.name, wanted)
        for kind, namespace in sorted(find_places(domain))
        for obj in await client.list_by_labels(WORKLOADS[kind], namespace, f"{LABEL}={wanted}")
    ]
    joined, _ = join(structs.replace(domain, capacity=None), applicants, (), {})
    targets: tuple[Target, ...] = () if joined is None else joined.targets
    return structs.replace(domain, targets=targets)
