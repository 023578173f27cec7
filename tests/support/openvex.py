"""What OpenVEX 0.2.0 demands of a document, as a JSON schema: the fields and rules of the specification."""

from __future__ import annotations

from typing import Any

_TEXT, _TIME = {"type": "string"}, {"type": "string", "format": "date-time"}
_IRI = {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:"}


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    names = {name.replace("at_", "@").replace("sha_", "sha-"): shape for name, shape in properties.items()}
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": names}


_PART: dict[str, Any] = {"at_id": _IRI, "identifiers": _closed(purl=_TEXT), "hashes": _closed(sha_256=_TEXT)}
_PARTS = {"type": "array", "uniqueItems": True, "items": _closed(**_PART)}
_PRODUCTS = {"type": "array", "uniqueItems": True, "items": _closed(subcomponents=_PARTS, **_PART)}
_STATEMENT = {
    **_closed(
        ("vulnerability", "status"),
        at_id=_IRI,
        vulnerability=_closed(("name",), name=_TEXT),
        timestamp=_TIME,
        last_updated=_TIME,
        products=_PRODUCTS,
        status={"enum": ["not_affected", "affected", "fixed", "under_investigation"]},
        status_notes=_TEXT,
        justification=_TEXT,
        impact_statement=_TEXT,
        action_statement=_TEXT,
    ),
    "allOf": [
        {
            "if": {"properties": {"status": {"const": "not_affected"}}},
            "then": {"oneOf": [{"required": ["justification"]}, {"required": ["impact_statement"]}]},
        },
        {"if": {"properties": {"status": {"const": "affected"}}}, "then": {"required": ["action_statement"]}},
    ],
}
SCHEMA = _closed(
    ("@context", "@id", "author", "timestamp", "version", "statements"),
    at_context={"const": "https://openvex.dev/ns/v0.2.0"},
    at_id=_IRI,
    author={"type": "string", "minLength": 1},
    timestamp=_TIME,
    last_updated=_TIME,
    version={"type": "integer", "minimum": 1},
    tooling=_TEXT,
    statements={"type": "array", "minItems": 1, "uniqueItems": True, "items": _STATEMENT},
)
