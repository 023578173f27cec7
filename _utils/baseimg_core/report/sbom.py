"""CycloneDX 1.6 for an image or a container: the packages that it really shows on one node."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Patch, PatchClassification, Pedigree
from cyclonedx.model.issue import IssueClassification, IssueType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6

from ..model.fixes.products import product_of
from . import purl

_IN_EFFECT = "in effect"
_NAMESPACE = "baseimg:"  # the namespace of our properties


def document(facts: Mapping[str, Any], node: str, suite: str) -> dict[str, Any]:
    """
    Return the document.

    Args:
        facts: What the image or container shows (:func:`ops.sbom.facts`).
        node: The name of the node.
        suite: The release of baseimg.

    Returns:
        CycloneDX 1.6 as plain data. The serial number follows from node, name and time, so equal facts give equal
        documents.
    """
    product = product_of(facts["image"], facts["id"], facts["digests"])
    subject = Component(
        name=facts["image"].rpartition("@")[0] or facts["image"],
        type=ComponentType.CONTAINER,
        bom_ref="subject",
        version=facts["id"],
        purl=purl.of_image(product.repository, product.digest),
        properties=_properties({"node": node, "kind": facts["kind"], "name": facts["name"], **_bases(facts)}),
    )
    tool = Component(name="baseimg", type=ComponentType.APPLICATION, bom_ref="baseimg", version=suite)
    bom = Bom(
        components=[*_distribution(facts), *(_component(facts, component) for component in facts["components"])],
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"baseimg:{node}:{facts['kind']}:{facts['name']}:{facts['at']}"),
        metadata=BomMetaData(
            component=subject,
            tools=ToolRepository(components=[tool]),
            timestamp=datetime.fromisoformat(facts["at"].replace("Z", "+00:00")),
        ),
    )
    bom.register_dependency(subject, bom.components)
    data: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    return data


def _bases(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return a property for each base: its version, and the bundle, signer and time that led to it."""
    named = {}
    for base in facts["bases"]:
        parts = [base["version"], base["bundle"] or "pristine"]
        parts += [f"signed by {base['signed_by']}"] if base["signed_by"] else []
        parts += [f"live since {base['activated']}"] if base["activated"] else []
        named[f"base:{base['base']}"] = ", ".join(parts)
    return named


def _component(facts: Mapping[str, Any], component: Mapping[str, Any]) -> Component:
    name = component["name"].partition(":")[0]
    source, source_version = component.get("source", name), component.get("source_version", component["version"])
    upstream = "" if source == name else source
    if source_version != component["version"]:
        upstream = f"{source}@{source_version}"
    url = purl.of_package(facts["manager"], facts["distro"], component["name"], component["version"], upstream)
    return Component(
        name=name,
        type=ComponentType.LIBRARY,
        bom_ref=url.to_string(),
        version=component["version"],
        purl=url,
        pedigree=_pedigree(facts, component) if component.get("state") == _IN_EFFECT else None,
        properties=[*_properties(dict(_hidden(component))), *_of_trivy(component)],
    )


def _distribution(facts: Mapping[str, Any]) -> list[Component]:
    """Return the distribution. Without it, scanners skip its packages."""
    named = facts["distro"]
    if not named.get("id"):
        return []
    system = ComponentType.OPERATING_SYSTEM
    return [Component(name=named["id"], type=system, bom_ref="distribution", version=named.get("version"))]


def _of_trivy(component: Mapping[str, Any]) -> list[Property]:
    """Return the source of a package as Trivy reads it: Debian's advisories name sources."""
    fields = {"SrcName": component.get("source"), "SrcVersion": component.get("source_version")}
    return [Property(name=f"aquasecurity:trivy:{name}", value=value) for name, value in fields.items() if value]


def _hidden(component: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the properties of a package whose update does not show, or not completely."""
    if "state" in component and component["state"] != _IN_EFFECT:
        yield "state", component["state"]
        yield "delivered", component["to"]
        if component.get("reason"):
            yield "reason", component["reason"]
        if component.get("paths"):
            yield "paths", ", ".join(component["paths"])


def _pedigree(facts: Mapping[str, Any], component: Mapping[str, Any]) -> Pedigree:
    """Return where an updated package comes from: its old version, the fixed advisories, and the bundle."""
    bundle = component["bundle"]
    base = next((base for base in facts["bases"] if base["bundle"] == bundle), None)
    signer = f", signed by {base['signed_by']}" if base and base["signed_by"] else ""
    time = f", live since {base['activated']}" if base and base["activated"] else ""
    before = purl.of_package(facts["manager"], facts["distro"], component["name"], component["from"])
    name = component["name"].partition(":")[0]
    resolves = [IssueType(type=IssueClassification.SECURITY, id=advisory) for advisory in component["advisories"]]
    return Pedigree(
        ancestors=[Component(name=name, version=component["from"], purl=before)] if component["from"] else None,
        patches=[Patch(type=PatchClassification.BACKPORT, resolves=resolves)] if resolves else None,
        notes=f"replaced in place by baseimg, bundle {bundle or 'unknown'}{signer}{time}",
    )


def _properties(values: Mapping[str, str]) -> list[Property]:
    return [Property(name=f"{_NAMESPACE}{name}", value=value) for name, value in values.items() if value]
