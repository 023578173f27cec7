"""
Answer who is exposed to an advisory from documents alone: a VEX document of a fleet, and SBOMs of its images and
containers.

It knows the libraries and docs/operating/scanners.md, and nothing else of baseimg:

    python tests/support/fresh_reader.py CVE-2024-5535 fleet.openvex.json web1-app.cdx.json …
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from cyclonedx.model.bom import Bom
from packageurl import PackageURL
from vexipy.document import Document


def main(advisory: str, vex: str, *sboms: str) -> list[str]:
    """Return ``NODE NAME`` of each exposed image and container that a SBOM describes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = Document.from_json(Path(vex).read_text())
    statuses = {
        PackageURL.from_string(str(product.id)): statement.status.value
        for statement in document.statements
        if statement.vulnerability.name == advisory
        for product in statement.products or ()
    }
    return sorted(line for path in sboms for line in _exposed(advisory, statuses, json.loads(Path(path).read_text())))


def _exposed(advisory: str, statuses: dict[PackageURL, str], raw: dict[str, object]) -> list[str]:
    bom = Bom.from_json(raw)  # type: ignore[attr-defined]
    subject = bom.metadata.component
    said = {each.name: each.value for each in subject.properties}
    status = statuses.get(subject.purl)
    fixed = {
        issue.id
        for component in bom.components
        if component.pedigree
        for patch in component.pedigree.patches
        for issue in patch.resolves
    }
    if status in (None, "not_affected") or advisory in fixed:
        return []
    return [f"{said['baseimg:node']} {said['baseimg:name']}"]


if __name__ == "__main__":
    print("\n".join(main(*sys.argv[1:])))
