"""Writes ``schemas/asyncapi.json``, an index of subjects, messages and headers (``python -m services.bus.asyncapi``).

It refers to the JSON Schemas beside it, for clients in other languages.  A test compares the file with the types.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import schemas.generate
from schemas import messages
from services.bus import envelope
from services.bus.subjects import DEFAULT_PREFIX, KINDS, Subjects

FILE = schemas.generate.HOME / "asyncapi.json"

_PARAMETERS = {
    "domain": "The domain, as a token: bytes other than letters, digits, - and _ are written =XX.",
    "namespace": "The target's namespace, as a token.",
    "deployment": "The target's Deployment, as a token.",
    "service": "The service that put the message aside.",
}
_ADDRESSES = {
    "sample": ("domain",),
    "definition": ("domain",),
    "decision": ("domain",),
    "action": ("domain", "namespace", "deployment"),
    "dead": ("service",),
}
_SENDERS = {
    "sample": "The sampler",
    "definition": "The actuator in charge",
    "decision": "The decision service",
    "action": "The actuator",
    "dead": "Any service",
}


def build_document() -> dict[str, Any]:
    """Build the AsyncAPI 3 document."""
    subjects = Subjects()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Sluice",
            "version": version("sluice"),
            "description": "Samples of latency in, limits on bandwidth out; each kind in a JetStream stream.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"bus": {"host": "nats:4222", "protocol": "nats", "description": "NATS with JetStream."}},
        "channels": {
            kind: {
                "address": ".".join([subjects.every(kind).removesuffix(".>"), *(f"{{{one}}}" for one in tokens)]),
                "title": f"{kind}s",
                "description": f"Stream {subjects.stream(kind)}; all of them: {subjects.every(kind)}.  "
                f"{DEFAULT_PREFIX} is the default prefix.",
                "parameters": {one: {"description": _PARAMETERS[one]} for one in tokens},
                "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
            }
            for kind, tokens in _ADDRESSES.items()
        },
        "operations": {
            f"{what}-{kind}": {
                "action": what,
                "channel": {"$ref": f"#/channels/{kind}"},
                "summary": f"{_SENDERS[kind]} publishes." if what == "send" else "Any reader follows.",
            }
            for kind in KINDS
            for what in ("send", "receive")
        },
        "components": {"messages": {kind: _build_message(kind) for kind in KINDS}},
    }


def _build_message(kind: str) -> dict[str, Any]:
    texts = {
        envelope.MSG_ID: "Deterministic: the same message published again has the same id, and is stored once.",
        envelope.TRACE: "W3C trace context: one trace runs from a sample through its decision to its actions.",
    }
    if kind == "decision":
        texts[envelope.SAMPLE_SEQ] = "Stream sequence of the sample that the decision answers."
    return {
        "name": messages.KINDS[kind].__name__,
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "required": list(texts),
            "properties": {name: {"type": "string", "description": text} for name, text in texts.items()},
        },
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-07",
            "schema": {"$ref": f"./{schemas.generate.file_name(kind)}"},
        },
    }


def render() -> str:
    """The content of the file."""
    return json.dumps(build_document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(FILE).write_text(render(), encoding="utf-8")
