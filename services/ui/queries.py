"""The parameters of the page's JSON API; ``views.py`` has what it answers."""

from typing import Annotated

from msgspec import Meta, Struct

from services.ui.views import Milliseconds, Text


class OverviewQuery(Struct, frozen=True):
    """Parameters of the overview."""

    source: Text = "live"
    at: Milliseconds | None = None
    """At this time, ms; now, or at the end of a recording, without it."""


class HistoryQuery(Struct, frozen=True):
    """Parameters of a domain's history."""

    domain: Text
    source: Text = "live"
    since: Milliseconds | None = None
    until: Milliseconds | None = None
    rough: bool = False
    """Of the bus, take a few hundred windows spread over the time: all of a day's take half a minute."""


class ActionsQuery(Struct, frozen=True):
    """Parameters of the search; a part that is absent lets all pass."""

    source: Text = "live"
    domain: Text | None = None
    since: Milliseconds | None = None
    until: Milliseconds | None = None
    cause: Text | None = None
    outcome: Text | None = None
    text: Text | None = None
    """In the target, the reason or the id; upper and lower case alike."""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class StoryQuery(Struct, frozen=True):
    """Parameters of a story."""

    id: Text
    """Of a sample, a decision or an action; or a domain, for the last time that one of its limits moved."""
    source: Text = "live"
    domain: Text | None = None
    """Of an action."""
    at: Milliseconds | None = None
    """Around when an action was reported."""


class EventsQuery(Struct, frozen=True):
    """Parameters of the stream of events."""

    domain: Text | None = None
    """Send this domain's history, too."""


class UploadQuery(Struct, frozen=True):
    """Parameters of an upload."""

    name: Annotated[str, Meta(max_length=255)] = "recording"


class NoQuery(Struct, frozen=True):
    """No parameters."""
