"""What a watch of the API server shows: all objects, then each that is new, changed or gone; and how it is sent."""

from typing import Generic, TypeVar

import msgspec
from msgspec import Struct, field

from services.kube.objects import KubeObject

T = TypeVar("T", bound=KubeObject)


class Listed(Struct, Generic[T], frozen=True):
    """A watch begins: all objects there are."""

    objects: tuple[T, ...]


class Updated(Struct, Generic[T], frozen=True):
    """An object is new or has changed."""

    object: T


class Deleted(Struct, Generic[T], frozen=True):
    """An object is gone."""

    object: T


class ListMeta(Struct, frozen=True, rename="camel"):
    """Where a list stands, on the wire."""

    resource_version: str = ""
    following: str = field(default="", name="continue")
    """Where the next page begins; empty on the last one."""


class ListPage(Struct, frozen=True):
    """One page of a list, on the wire."""

    metadata: ListMeta
    items: tuple[msgspec.Raw, ...] | None
    """Required: an error with status 200 has metadata, too."""


class WatchEvent(Struct, frozen=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class WatchedObject(Struct, frozen=True):
    """What every object of a watch has."""

    metadata: ListMeta
