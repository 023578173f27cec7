"""
One repository: the registry that has it and its mirrors, asked until one of them answers.

Mirrors come first and get one chance each, for a dead one must not cost the time of every request; the registry itself
is asked again, with growing pauses. Nothing that comes from either is believed before its digest is checked.
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
from .endpoint import Absent, Endpoint, Transient, host_of

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds, between two tries

T = TypeVar("T")


class Sink(Protocol):
    """Where a blob goes: ``size`` bytes are there already, in order."""

    @property
    def size(self) -> int: ...

    def write(self, data: bytes) -> None: ...

    def restart(self) -> None: ...


class Repository:
    """
    The repository that ``place`` names; ``declared`` is what is known of registries, by host.

    Raises :class:`BundleUnavailable`, :class:`RegistryDenied`, :class:`DigestMismatch`.
    """

    def __init__(self, place: Reference, declared: Mapping[str, Registry]) -> None:
        known = declared.get(place.host, Registry())
        self.own = Endpoint(place.host, known.insecure)
        self._mirrors = [
            Endpoint(host_of(url), declared.get(host_of(url), Registry()).insecure, url) for url in known.mirrors
        ]
        self.path = f"/v2/{place.name}"
        self._shown = f"{place.host}/{place.name}"

    @property
    def has_mirrors(self) -> bool:
        """Whether any mirror is still asked."""
        return bool(self._mirrors)

    def without_mirrors(self) -> None:
        """From now on only the registry itself is asked."""
        self._mirrors.clear()

    def manifest(self, wanted: str) -> bytes | None:
        """The manifest of a tag or digest; ``None`` where there is none."""

        def job(endpoint: Endpoint) -> bytes:
            response = endpoint.request("GET", f"{self.path}/manifests/{wanted}", {"Accept": MANIFEST_TYPE})
            return checked(endpoint.read(response, MAX_JSON), wanted)

        try:
            return self.attempt(f"the manifest of {wanted}", job)
        except Absent:
            return None

    def small(self, blob: Descriptor, limit: int = MAX_JSON) -> bytes:
        """A blob of no more than ``limit`` bytes."""
        return self._present(
            blob.digest,
            lambda one: checked(
                one.read(one.request("GET", f"{self.path}/blobs/{blob.digest}"), min(blob.size, limit)), blob.digest
            ),
        )

    def download(self, blob: Descriptor, sink: Sink) -> None:
        """The rest of a blob, however often the connection breaks, as long as each time brings some bytes."""
        while sink.size < blob.size:
            before = sink.size
            try:
                self._present(blob.digest, lambda endpoint: self._transfer(endpoint, blob, sink))
            except BundleUnavailable:
                if sink.size <= before:
                    raise

    def attempt(self, what: str, job: Callable[[Endpoint], T]) -> T:
        """
        The first good answer. What the registry itself says counts, also that it does not have it: :class:`Absent`.
        """
        for pause in (*_PAUSES, None):
            for mirror in list(self._mirrors):
                try:
                    return job(mirror)
                except (Absent, RegistryDenied):
                    continue  # it may have other things
                except (Transient, BaseimgError):
                    self._mirrors.remove(mirror)
            try:
                return job(self.own)
            except Transient as exc:
                if pause is None:
                    raise BundleUnavailable(
                        f"cannot get {what} of {self._shown}: {exc}", "see that this registry can be reached from here"
                    ) from None
                # a fleet that lost its registry must not come back to it in one moment
                time.sleep(max(exc.wait, pause * random.uniform(0.5, 1.5)))
        raise AssertionError("unreachable")

    def _present(self, digest: str, job: Callable[[Endpoint], T]) -> T:
        try:
            return self.attempt(f"the blob {digest}", job)
        except Absent as exc:
            raise BundleUnavailable(f"{self._shown} lacks the blob {digest}: {exc}", "push the bundle again") from None

    def _transfer(self, endpoint: Endpoint, blob: Descriptor, sink: Sink) -> None:
        wanted = {"Range": f"bytes={sink.size}-"} if sink.size else {}
        response = endpoint.request("GET", f"{self.path}/blobs/{blob.digest}", wanted, ok=(200, 206))
        given = response.headers.get("Content-Range", "")
        if response.status == 200:
            sink.restart()  # it does not know ranges
        elif not given.startswith(f"bytes {sink.size}-"):
            response.close()
            raise BundleUnavailable(f"{endpoint.host} answers with another range than it was asked for")
        for data in endpoint.stream(response, CHUNK):
            if sink.size + len(data) > blob.size:
                response.close()
                raise DigestMismatch(f"{endpoint.host} sends more than the {blob.size} bytes of {blob.digest}")
            sink.write(data)
        if sink.size < blob.size:
            raise Transient(f"{endpoint.host} ended after {sink.size} of {blob.size} bytes")


def checked(data: bytes, wanted: str) -> bytes:
    """What was asked for by its digest has it; by a tag, anything may come."""
    found = "sha256:" + hashlib.sha256(data).hexdigest()
    if ids.is_digest(wanted) and found != wanted:
        raise DigestMismatch(f"the registry gives something with the digest {found} for {wanted}")
    return data
