"""
One repository in a registry and its mirrors.

Mirrors are tried first, once each, so a dead mirror does not delay every request. Requests to the registry are retried
with growing pauses. All content addressed by digest is verified.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from ..disk.bundle.reader import MANIFEST_TYPE, MAX_JSON, Descriptor
from ..errors import BaseimgError, BundleUnavailable, DigestMismatch, RegistryDenied
from ..linux.files import CHUNK
from ..model.policy.pillar import Registry
from ..model.policy.reference import Reference
from ..model.stack import ids
from .endpoint import ContentNotFound, Endpoint, Transient, host_of

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts
_DOWNLOAD_SECONDS = 2 * 60 * 60  # limit for one blob, retries included

T = TypeVar("T")


class Sink(Protocol):
    """The destination of a download, written in order."""

    @property
    def size(self) -> int:
        """The number of bytes written."""

    def write(self, data: bytes) -> None:
        """Append the next bytes of the blob."""

    def restart(self) -> None:
        """Discard all bytes."""


class Repository:
    """
    The repository that ``place`` names. ``declared`` maps hosts to the settings of their registries.

    All methods that send requests raise :class:`BundleUnavailable`, :class:`RegistryDenied`, :class:`DigestMismatch`.
    """

    def __init__(self, place: Reference, declared: Mapping[str, Registry]) -> None:
        known = declared.get(place.host, Registry())
        self.own = Endpoint(place.host, known.insecure)
        self._mirrors = [
            Endpoint(host_of(url), declared.get(host_of(url), Registry()).insecure, url) for url in known.mirrors
        ]
        self._all_mirrors = tuple(self._mirrors)
        self.path = f"/v2/{place.name}"
        self._display_name = f"{place.host}/{place.name}"

    @property
    def has_mirrors(self) -> bool:
        """True if at least one mirror is still in use."""
        return bool(self._mirrors)

    def close(self) -> None:
        """Close all connections."""
        for endpoint in (self.own, *self._all_mirrors):
            endpoint.close()

    def without_mirrors(self) -> None:
        """Stop using mirrors."""
        self._mirrors.clear()

    def manifest(self, name: str, accept: str = MANIFEST_TYPE) -> bytes | None:
        """Return the manifest of a tag or digest, of a type in ``accept``; ``None`` if the registry has none."""

        def job(endpoint: Endpoint) -> bytes:
            response = endpoint.request("GET", f"{self.path}/manifests/{name}", {"Accept": accept})
            return verified(endpoint.read(response, MAX_JSON), name)

        try:
            return self.with_retries(f"the manifest of {name}", job)
        except ContentNotFound:
            return None

    def fetch_bytes(self, blob: Descriptor, limit: int = MAX_JSON) -> bytes:
        """Fetch and verify a blob of at most ``limit`` bytes."""
        return self._require(
            blob.digest,
            lambda endpoint: verified(
                endpoint.read(endpoint.request("GET", f"{self.path}/blobs/{blob.digest}"), min(blob.size, limit)),
                blob.digest,
            ),
        )

    def download(self, blob: Descriptor, sink: Sink) -> None:
        """Download the rest of a blob. Interrupted transfers resume as long as each attempt makes progress."""
        deadline = time.monotonic() + _DOWNLOAD_SECONDS
        while sink.size < blob.size:
            before = sink.size
            try:
                self._require(blob.digest, lambda endpoint: self._transfer(endpoint, blob, sink, deadline))
            except BundleUnavailable:
                if sink.size <= before or time.monotonic() > deadline:
                    raise

    def with_retries(self, what: str, job: Callable[[Endpoint], T]) -> T:
        """
        Run ``job`` against the mirrors, then the registry, until it succeeds.

        A mirror with a network error is not used again. The registry's own answer is final, also
        :class:`ContentNotFound`.

        Args:
            what: The object of the request, for messages.
            job: Sends the request to one endpoint.

        Returns:
            The result of ``job``.

        Raises:
            NotFound: The registry does not have the object.
            RegistryDenied: The registry rejected the credentials or the request.
            BundleUnavailable: All attempts failed.
        """
        for pause in (*_PAUSES, None):
            for mirror in list(self._mirrors):
                try:
                    return job(mirror)
                except (ContentNotFound, RegistryDenied):
                    continue  # this mirror may still have other blobs
                except (Transient, BaseimgError):
                    self._mirrors.remove(mirror)
            try:
                return job(self.own)
            except Transient as exc:
                if pause is None:
                    raise BundleUnavailable(
                        f"cannot get {what} of {self._display_name}: {exc}",
                        "check the connection from this node to the registry",
                    ) from None
                # jitter, because a whole fleet may retry at the same time
                time.sleep(max(exc.wait, pause * random.uniform(0.5, 1.5)))
        raise AssertionError("unreachable")

    def _require(self, digest: str, job: Callable[[Endpoint], T]) -> T:
        try:
            return self.with_retries(f"the blob {digest}", job)
        except ContentNotFound as exc:
            raise BundleUnavailable(
                f"{self._display_name} does not have the blob {digest}: {exc}", "push the bundle again"
            ) from None

    def _transfer(self, endpoint: Endpoint, blob: Descriptor, sink: Sink, deadline: float) -> None:
        headers = {"Range": f"bytes={sink.size}-"} if sink.size else {}
        response = endpoint.request("GET", f"{self.path}/blobs/{blob.digest}", headers, ok=(200, 206))
        content_range = response.headers.get("Content-Range", "")
        if response.status == 200:
            sink.restart()  # the server ignored the Range header
        elif not content_range.startswith(f"bytes {sink.size}-"):
            response.close()
            raise BundleUnavailable(f"{endpoint.host} returned another range than requested")
        for data in endpoint.stream(response, CHUNK):
            if sink.size + len(data) > blob.size:
                response.close()
                raise DigestMismatch(f"{endpoint.host} sent more than the {blob.size} bytes of {blob.digest}")
            sink.write(data)
            if time.monotonic() > deadline:
                response.close()
                raise BundleUnavailable(
                    f"{endpoint.host} sent {sink.size} of {blob.size} bytes in {_DOWNLOAD_SECONDS} s",
                    "check the connection to the registry; the next run resumes the download",
                )
        if sink.size < blob.size:
            raise Transient(f"{endpoint.host} ended after {sink.size} of {blob.size} bytes")


def verified(data: bytes, name: str) -> bytes:
    """
    Return ``data``.

    Raises:
        DigestMismatch: ``name`` is a digest that does not match.
    """
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if ids.is_digest(name) and digest != name:
        raise DigestMismatch(f"the registry returned data with the digest {digest} for {name}")
    return data
