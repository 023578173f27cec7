"""
Validate OpenVEX 0.2.0 documents: with vexipy, which follows the specification, and with the rules of its schema.

The published schema is in no package, and is not copied. vexipy ignores unknown fields, so equality with what it read
shows that there are none.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import jsonschema
from vexipy.document import Document

_TEXT, _TIME = {"type": "string"}, {"type": "string", "format": "date-time"}
_IRI = {"type": "string", "format": "uri", "pattern": "^[a-z][a-z0-9+.-]*:"}


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


def validate(document: dict[str, Any]) -> None:
    """Raise an error if a document is not valid."""
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(document)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The use of an impact statement")  # it says that the digest is not fixed
        read = Document.from_json(json.dumps(document))
    written = json.loads(read.to_json(by_alias=True, exclude_none=True).replace("+00:00", "Z"))
    assert written == document
