"""What a watch of the API server shows: all objects, then each that is new, changed or gone."""

from typing import Generic, TypeVar

from msgspec import Struct

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
