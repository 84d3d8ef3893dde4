"""The configuration of the streams, and the differences of an existing one."""

from typing import Any

import pytest

from schemas.config import BusConfig
from services.bus import streams
from services.bus.subjects import Subjects


def test_every_kind_has_its_stream_with_the_configured_retention() -> None:
    """Limits retention by age and size, on disk, with the configured copies."""
    wanted = streams.build_configs(BusConfig(replicas=3, keep_bytes=2**30), Subjects("plant"))
    names = ["PLANT_SAMPLE", "PLANT_DEFINITION", "PLANT_DECISION", "PLANT_ACTION", "PLANT_DEAD"]
    assert [one["name"] for one in wanted] == names
    for one in wanted:
        assert (one["retention"], one["storage"], one["num_replicas"]) == ("limits", "file", 3)
        # A domain's last definition neither ages nor makes way for another's.
        is_definition = one["name"] == "PLANT_DEFINITION"
        assert (one["discard"], one["max_age"]) == (("new", 0) if is_definition else ("old", 24 * 3600 * 10**9))
        assert one["max_bytes"] == 2**30
        assert one.get("max_msgs_per_subject") == (128 if is_definition else None)


def test_a_stream_as_it_should_be_has_no_differences() -> None:
    """Fields that the server adds, or omits because they are false, are ignored."""
    want = streams.build_configs(BusConfig(), Subjects())[0]
    assert streams.describe_differences(want, {**want, "compression": "none", "max_consumers": -1}) is None
    assert streams.describe_differences({**want, "sealed": False}, want) is None


def test_differences_are_named_with_both_values() -> None:
    """The text has the actual and the expected value."""
    want = streams.build_configs(BusConfig(), Subjects())[0]
    text = streams.describe_differences(want, {**want, "max_age": 5, "subjects": ["x"]})
    assert text is not None
    assert "stream SLUICE_SAMPLE exists with subjects ['x'], max_age 5" in text
    assert "subjects ['sluice.sample.v1.>'], max_age 86400000000000" in text


@pytest.mark.parametrize(
    "setting",
    [{"sealed": True}, {"no_ack": True}, {"max_msgs_per_subject": 1}, {"max_msgs": 100}, {"mirror": {"name": "x"}}],
)
def test_settings_that_sluice_never_makes_are_named(setting: dict[str, Any]) -> None:
    """A sealed stream stores nothing, and one message a subject is too few for a replay."""
    want = streams.build_configs(BusConfig(), Subjects())[0]
    (name,) = setting
    assert f"exists with {name} {setting[name]}" in str(streams.describe_differences(want, {**want, **setting}))
