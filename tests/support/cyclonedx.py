"""Validate CycloneDX 1.6 documents offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from cyclonedx import schema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7


def validate(document: dict[str, Any]) -> None:
    """Validate a document against the published CycloneDX 1.6 schema, which the library brings."""
    home = Path(schema.__file__).parent / "_res"
    names = {"spdx.SNAPSHOT.schema.json": "spdx.schema.json", "jsf-0.82.SNAPSHOT.schema.json": "jsf-0.82.schema.json"}
    parts = [
        (f"http://cyclonedx.org/schema/{uri}", json.loads((home / name).read_text())) for name, uri in names.items()
    ]
    registry: Registry[Any] = Registry().with_resources(
        [(uri, Resource.from_contents(part, default_specification=DRAFT7)) for uri, part in parts]
    )
    published = json.loads((home / "bom-1.6.SNAPSHOT.schema.json").read_text())
    jsonschema.Draft7Validator(published, registry=registry).validate(document)
