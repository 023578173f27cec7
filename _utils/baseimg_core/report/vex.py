"""
OpenVEX 0.2 for a fleet: which advisory matters in which image, on these nodes.

The digest of an image is never *fixed*: whoever pulls it elsewhere has the old files. A fix that is in effect on every
node makes the image *not affected* there, with a statement that says so.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentInvalid
from ..model.fixes.products import FixedPackage, Product, Statement, Statements
from . import purl

CONTEXT = "https://openvex.dev/ns/v0.2.0"
NOT_AFFECTED, AFFECTED, UNDER_INVESTIGATION = "not_affected", "affected", "under_investigation"
_CACHED = 1 << 16  # URLs
_TIMES = ("timestamp", "last_updated")


def document(
    stated: Statements, silent: Mapping[str, str], head: Mapping[str, str], now: str, previous: Mapping[str, Any] | None
) -> dict[str, Any]:
    """
    Return the document.

    Args:
        stated: What is known of each advisory in each image.
        silent: Nodes of which nothing, or not everything, is known, with the reason.
        head: ``id``, ``author`` and ``tooling`` of the document.
        now: The present time, ISO 8601 in UTC.
        previous: The :func:`state` of the document before; ``None`` for the first one.

    Returns:
        The document: the previous one if nothing changed, else one with the next version. Statements that did not
        change keep their times.

    Raises:
        ArgumentInvalid: There is nothing to state.
    """
    if not stated:
        hint = "build bundles with changelogs or fixes="
        if previous:
            hint = f"remove the document of {previous['last_updated']}, which no longer holds; {hint}"
        raise ArgumentInvalid("no bundle on any node names an advisory", hint)
    before = (previous or {}).get("statements", {})
    statements = [_dated(_with_id(statement, head["id"]), before, now) for statement in _statements(stated, silent)]
    fields = {"@context": CONTEXT, "@id": head["id"], "author": head["author"], "tooling": head["tooling"]}
    document = {**fields, "timestamp": now, "last_updated": now, "version": 1, "statements": statements}
    if previous:
        is_same = fields == previous["fields"] and _times_by_id(document) == before
        document["timestamp"] = previous["timestamp"]
        document["version"] = previous["version"] + (0 if is_same else 1)
        document["last_updated"] = previous["last_updated"] if is_same else now
    return document


def state(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the next document needs of this one: ``previous`` of :func:`document`."""
    kept = {key: document[key] for key in ("version", "timestamp", "last_updated")}
    fields = {key: document[key] for key in ("@context", "@id", "author", "tooling")}
    return {**kept, "fields": fields, "statements": _times_by_id(document)}


def _times_by_id(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the digest and the times of each statement, by ID."""
    return {
        statement["@id"]: [_digest(statement), statement["timestamp"], statement.get("last_updated", "")]
        for statement in document["statements"]
    }


def _digest(statement: Mapping[str, Any]) -> str:
    """Return the digest of a statement without its times."""
    plain = {key: value for key, value in statement.items() if key not in _TIMES}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _dated(statement: dict[str, Any], before: Mapping[str, Sequence[str]], now: str) -> dict[str, Any]:
    """Return a statement with the times of the equal one before it, if there is one."""
    if statement["@id"] not in before:
        return {**statement, "timestamp": now}
    digest, issued, updated = before[statement["@id"]]
    updated = updated if digest == _digest(statement) else now
    return {**statement, "timestamp": issued, **({"last_updated": updated} if updated else {})}


def _with_id(statement: dict[str, Any], document_id: str) -> dict[str, Any]:
    """Return a statement with an ID that stays the same as long as advisory, status and text do."""
    texts = {key: value for key, value in statement.items() if key != "products"}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    return {"@id": f"{document_id}#{digest[:32]}", **statement}


def _statements(stated: Statements, silent: Mapping[str, str]) -> list[dict[str, Any]]:
    grouped: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    products: dict[
        tuple[Product, frozenset[FixedPackage]], dict[str, Any]
    ] = {}  # one object for equal ones: there are many
    for advisory, by_product in sorted(stated.items()):
        for product, statement in by_product.items():
            said = {"vulnerability": {"name": advisory}, **_status(statement, silent)}
            key = json.dumps(said, sort_keys=True)
            part = (product, frozenset(statement.packages))
            if part not in products:
                products[part] = _product(*part)
            grouped.setdefault(key, (said, []))[1].append(products[part])
    return [
        {**said, "products": sorted(listed, key=lambda product: str(product["@id"]))}
        for _key, (said, listed) in sorted(grouped.items())
    ]


def _status(statement: Statement, silent: Mapping[str, str]) -> dict[str, Any]:
    if statement.remedies:
        return {"status": AFFECTED, "action_statement": "; ".join(sorted(statement.remedies))}
    if statement.doubts or silent:
        doubts = sorted({*statement.doubts, *(f"{node}: {reason}" for node, reason in silent.items())})
        more = f" and {len(doubts) - 5} more" if len(doubts) > 5 else ""
        return {"status": UNDER_INVESTIGATION, "status_notes": f"not known: {'; '.join(doubts[:5])}{more}"}
    by = f", by bundle {', '.join(sorted(statement.bundles))}" if statement.bundles else ""
    text = f"The fix is in effect on the nodes of this fleet only{by}. The image itself has the old files."
    return {"status": NOT_AFFECTED, "impact_statement": text}


def _product(product: Product, packages: frozenset[FixedPackage]) -> dict[str, Any]:
    url = _image_url(product)
    urls = sorted({each for package in packages for each in _package_urls(package)})
    hashes = {"sha-256": product.digest.removeprefix("sha256:")} if product.digest.startswith("sha256:") else {}
    return {
        "@id": url,
        "identifiers": {"purl": url},
        **({"hashes": hashes} if hashes else {}),
        **({"subcomponents": [{"@id": each, "identifiers": {"purl": each}} for each in urls]} if urls else {}),
    }


@functools.lru_cache(_CACHED)
def _image_url(product: Product) -> str:
    return purl.of_image(product.repository, product.digest).to_string()


@functools.lru_cache(_CACHED)
def _package_urls(package: FixedPackage) -> tuple[str, ...]:
    """Return the URLs by which scanners know a package: Trivy has the epoch of each manager as a qualifier."""
    url = purl.of_package(package.manager, {"id": package.distro}, package.name, package.version)
    epoch, colon, version = (url.version or "").partition(":")
    if not colon:
        return (url.to_string(),)
    other = url._replace(version=version, qualifiers={**dict(url.qualifiers or {}), "epoch": epoch})
    return url.to_string(), other.to_string()
