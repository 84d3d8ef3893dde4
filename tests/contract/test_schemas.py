"""Messages on the bus match the published schemas, and stay readable in both directions."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import generate, messages
from schemas.definition import Definition
from schemas.domain import Critical, Domain, Shield, Target
from schemas.messages import KINDS, InvalidMessage, decode, encode
from schemas.units import MAX_KBIT, Duration, Rate
from services.bus import asyncapi
from services.bus.subjects import Subjects

GOLDEN = Path(__file__).parent.parent / "golden" / "messages"
INTEGERS = st.integers(-(2**63), 2**63 - 1)
"""Of unknown fields."""
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JUNK: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), st.none() | INTEGERS | st.text() | st.just({})
)

VALIDATORS = {kind: jsonschema.Draft202012Validator(generate.schema(kind)) for kind in KINDS}
"""Built once, because checking a schema takes longer than applying it."""


SCALARS: dict[type[Any], st.SearchStrategy[Any]] = {
    msgspec.inspect.FloatType: FINITE,
    msgspec.inspect.StrType: st.text(),
    msgspec.inspect.BoolType: st.booleans(),
    msgspec.inspect.NoneType: st.none(),
    msgspec.inspect.AnyType: st.dictionaries(st.text(), st.none() | st.booleans() | FINITE | st.text(), max_size=3),
}


RATES = st.lists(st.integers(1, MAX_KBIT), min_size=3, max_size=3).map(
    lambda rates: [Rate(one) for one in sorted(rates)]
)
NAMES = st.from_regex(r"[a-z0-9.-]{1,12}", fullmatch=True)
DURATIONS = st.integers(1, 2**50).map(Duration)
DOMAINS = st.builds(
    lambda name, objectives, rates, more: Domain(
        name=name,
        critical=tuple(Critical(workload=f"w{i}", **one) for i, one in enumerate(objectives)),
        targets=tuple(
            Target(deployment=f"t{i}", min=low, fail_safe=middle, max=high)
            for i, (low, middle, high) in enumerate(rates)
        ),
        **more,
    ),
    st.text(),
    st.lists(
        st.fixed_dictionaries({}, optional={"namespace": NAMES, "p95": DURATIONS, "jitter": DURATIONS}), min_size=1
    ),
    st.lists(RATES, min_size=1, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "policy": NAMES,
            "parameters": st.dictionaries(st.text(), FINITE | st.text(), max_size=3),
            "dead_man": DURATIONS,
            "shield": st.builds(Shield, decay=DURATIONS, settle=DURATIONS),
        },
    ),
)
"""Configurations of a domain."""


def draw_message(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any message of a type, with a random value for every field."""
    if kind is Domain:
        return DOMAINS  # its parts depend on each other
    fields = msgspec.structs.fields(kind)
    return st.builds(kind, **{field.name: draw_value(msgspec.inspect.type_info(field.type)) for field in fields})


def draw_value(info: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    match info:
        case msgspec.inspect.UnionType(types=types):
            return st.one_of(*map(draw_value, types))
        case msgspec.inspect.StructType(cls=cls):
            return draw_message(cls)
        case msgspec.inspect.VarTupleType(item_type=item):
            return st.lists(draw_value(item), max_size=3).map(tuple)
        case msgspec.inspect.DictType(value_type=value):
            return st.dictionaries(st.text(), draw_value(value), max_size=3)
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
    return st.integers(info.ge, info.le) if isinstance(info, msgspec.inspect.IntType) else SCALARS[type(info)]


def in_order(message: Any) -> Any:
    """The same message in this version, with times that do not contradict each other."""
    message = msgspec.structs.replace(message, v=1)
    if isinstance(message, messages.Sample):
        end = max(message.end, 1 - 2**62)
        return msgspec.structs.replace(message, start=min(message.start, end - 1), end=end)
    if isinstance(message, messages.Decision):
        end = min(message.end, 2**62 - 1)
        return msgspec.structs.replace(message, expires=max(message.expires, end + 1), end=end)
    if isinstance(message, Definition):
        return msgspec.structs.replace(message, domain=message.configuration.name)
    return message


MESSAGES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda name: st.tuples(st.just(name), draw_message(KINDS[name]).map(in_order))
)


def with_junk(tree: Any, junk: dict[str, Any]) -> Any:
    """The same JSON with unknown fields in every object of a known type."""
    if isinstance(tree, list):
        return [with_junk(one, junk) for one in tree]
    if isinstance(tree, dict):
        free = {"configuration", "memory", "shield", "shadows", "demand", "over", "in_force", "reported"}
        return junk | {key: value if key in free else with_junk(value, junk) for key, value in tree.items()}
    return tree


def is_part(part: Any, tree: Any) -> bool:
    """Whether JSON has all that is in other JSON, and maybe more fields."""
    if isinstance(part, dict):
        return all(key in tree and is_part(value, tree[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(tree) and all(map(is_part, part, tree))
    return bool(part == tree)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_committed_schema_is_the_types(kind: str) -> None:
    """The schema files match the types; ``make schemas`` writes them."""
    committed = (generate.HOME / generate.file_name(kind)).read_text(encoding="utf-8")
    assert committed == generate.text(generate.schema(kind)), "run `make schemas`"
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


def test_every_field_that_needs_words_has_them() -> None:
    """The schema describes each time and rate."""
    silent = [
        f"{kind}: {name}.{field}"
        for kind in KINDS
        for name, definition in generate.schema(kind)["$defs"].items()
        for field, schema_of_field in definition["properties"].items()
        if field in {"start", "end", "period", "limit", "was", "proposal", "throughput", "expires", "jitter", "p95"}
        and "description" not in schema_of_field
    ]
    assert [one for one in silent if not one.endswith("PodOutcome.limit")] == []


@given(MESSAGES)
def test_messages_fit_their_schema_and_read_back(draw_value: tuple[str, messages.Message]) -> None:
    """Any message reads back the same, and is valid under the published schema."""
    name, message = draw_value
    body = encode(message)
    assert decode(KINDS[name], body) == message  # type: ignore[type-var]
    VALIDATORS[name].validate(json.loads(body))


@given(MESSAGES, JUNK)
def test_unknown_fields_are_ignored(draw_value: tuple[str, messages.Message], junk: dict[str, Any]) -> None:
    """Forward: unknown fields in a message of a later build are ignored."""
    name, message = draw_value
    later = json.dumps(with_junk(json.loads(encode(message)), junk)).encode()
    assert decode(KINDS[name], later) == message  # type: ignore[type-var]
    VALIDATORS[name].validate(json.loads(later))


def test_a_configuration_that_is_not_wholly_understood_is_refused() -> None:
    """A setting of a later build may say what this build must not do otherwise; so may a name that is another's."""
    first = json.loads((GOLDEN / "definition.v1.json").read_text())
    later = first | {"configuration": first["configuration"] | {"floor": "1M"}}
    with pytest.raises(InvalidMessage, match="there is no field `floor`"):
        decode(Definition, json.dumps(later).encode())
    with pytest.raises(InvalidMessage, match="of 'other', and it configures 'factory'"):
        decode(Definition, json.dumps(first | {"domain": "other"}).encode())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_messages_of_the_first_build_are_read_for_good(kind: str) -> None:
    """Backward: this build reads the files that the first build wrote; newer fields get their defaults."""
    first = json.loads((GOLDEN / f"{kind}.v1.json").read_text())
    read = decode(KINDS[kind], json.dumps(first).encode())  # type: ignore[type-var]
    again = json.loads(encode(read))
    # A configuration is written in full, so that it means the same to a build with other defaults.
    assert is_part(first, again) if kind == "definition" else again == first
    VALIDATORS[kind].validate(first)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_only_these_fields_are_required(kind: str) -> None:
    """A new required field would make every older message unreadable."""
    first = json.loads((GOLDEN / f"{kind}.v1.json").read_text())
    definition = generate.schema(kind)["$defs"][KINDS[kind].__name__]
    assert set(definition["required"]) <= set(first)
    for left_out in definition["required"]:
        body = json.dumps({key: value for key, value in first.items() if key != left_out}).encode()
        with pytest.raises(InvalidMessage, match=left_out):
            decode(KINDS[kind], body)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"\x00\xff",
        b"[]",
        b'{"domain":"\xff"}',
        b'{"domain":"d","start":0.5,"end":1,"period":1,"source":"x"}',
        b'{"domain":"d","start":NaN,"end":1,"period":1,"source":"x"}',
        b'{"domain":"d","start":0,"end":1,"period":1,"source":"x","v":2}',
        b'{"domain":"d","start":0,"end":1,"period":1,"source":"x","v":true}',
        b'{"domain":"d","start":0,"end":1,"period":1,"source":"x","critical":{}}',
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_sample_is_refused_with_a_reason(body: bytes) -> None:
    """A malformed, mistyped, too deep message, or one of another version, raises one kind of error with a text."""
    with pytest.raises(InvalidMessage, match="Sample") as caught:
        decode(messages.Sample, body)
    assert not re.search(r"`(int|float|str|bool|null|object|array)`|Object |JSON is|truncated", str(caught.value))


def test_the_asyncapi_document_is_what_the_types_give() -> None:
    """``make schemas`` was run after the last change of the subjects or the messages."""
    assert asyncapi.FILE.read_text(encoding="utf-8") == asyncapi.render(), "run `make schemas`"


def test_the_asyncapi_document_names_every_subject() -> None:
    """Its addresses match the subjects that the services publish to, and its references resolve to the schemas."""
    document, subjects = asyncapi.build_document(), Subjects()
    published = {
        "sample": subjects.sample("line.1"),
        "definition": subjects.definition("line.1"),
        "decision": subjects.decision("line.1"),
        "action": subjects.action("line.1", "default/upload"),
        "dead": subjects.dead("decision"),
    }
    for kind, subject in published.items():
        channel = document["channels"][kind]
        tokens = channel["address"].split(".")
        assert len(tokens) == len(subject.split("."))
        assert all(token.startswith("{") or token == at for token, at in zip(tokens, subject.split("."), strict=True))
        assert {token.strip("{}") for token in tokens if token.startswith("{")} == set(channel["parameters"])
        reference = document["components"]["messages"][kind]["payload"]["schema"]["$ref"]
        assert (generate.HOME / reference).exists()
