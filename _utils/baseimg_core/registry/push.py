"""Bring a bundle, and its signature where it has one, to a registry as the ordinary image that it is."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin

from ..disk.bundle import frame
from ..disk.bundle import signature as bundle_signature
from ..disk.bundle.reader import MANIFEST_TYPE, Bundle, Descriptor
from ..errors import BundleInvalid, BundleUnavailable, SignatureMissing
from ..linux.files import CHUNK
from ..model.policy import reference
from ..model.policy.pillar import SIGNATURE_SUFFIX, Registry
from ..model.policy.reference import Reference
from ..progress import Progress
from . import artifact
from .endpoint import Absent, Endpoint
from .repository import Repository


def push(
    path: str,
    place: Reference,
    declared: Mapping[str, Registry],
    test: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """
    Push the bundle ``path``, and ``path.sig`` where that is there, to the tag that ``place`` names.

    Only what is missing is sent; with ``test`` nothing. Raises :class:`BundleInvalid` for a file that could not be made
    again from what a registry keeps, :class:`BundleUnavailable`, :class:`RegistryDenied`.
    """
    repository = Repository(place, declared)
    repository.without_mirrors()
    try:
        signature: bytes | None = bundle_signature.read(path + SIGNATURE_SUFFIX)
    except SignatureMissing:
        signature = None
    with Bundle(path) as bundle:
        _check(bundle)
        image = bundle.image
        changed = repository.manifest(place.tag) != image
        if changed and not test:
            _layer(repository, bundle, progress)
            _blob(repository, bundle.config)
            _manifest(repository, place.tag, image)
        source = place.at(frame.digest(image))
        result = {"bundle": path, "hash": bundle.digest, "source": source, "tag": place.tag, "size": bundle.size}
    if signature is not None:
        changed |= _signature(repository, signature, image, test)
    return {"changed": changed, **result, "signed": signature is not None}


def _check(bundle: Bundle) -> None:
    """Nodes must be able to make this very file again, or neither ``hash`` nor a signature would hold there."""
    if len(bundle.encodings) > 1:
        raise BundleInvalid(
            f"{bundle.path} carries both encodings, which are two images for a registry",
            "push a bundle that was built with delta=only, or without a delta",
        )
    sha, blob, stream = hashlib.sha256(), hashlib.sha256(), bundle.blob()
    sha.update(frame.head(bundle.layer.digest, bundle.layer.size))
    while data := stream.read(CHUNK):
        sha.update(data)
        blob.update(data)
    if "sha256:" + blob.hexdigest() != bundle.layer.digest:
        raise BundleInvalid(f"the layer of {bundle.path} is damaged")
    sha.update(frame.tail(bundle.layer.size, bundle.config, [bundle.image], bundle.manifest.target.version))
    if "sha256:" + sha.hexdigest() != bundle.digest:
        raise BundleInvalid(
            f"{bundle.path} is not as baseimg writes bundles: another tool has made this copy",
            "push the file that baseimg.build wrote, for nodes make exactly that again",
        )


def _signature(repository: Repository, signature: bytes, image: bytes, test: bool) -> bool:
    found = artifact.signature_image(signature, image)
    tag = reference.signature_tag(frame.digest(image))
    changed = repository.manifest(tag) != found
    if changed and not test:
        _blob(repository, artifact.EMPTY)
        _blob(repository, signature)
        _manifest(repository, tag, found)
    return changed


def _layer(repository: Repository, bundle: Bundle, progress: Progress | None) -> None:
    _upload(repository, bundle.layer, lambda: _Told(bundle.blob(), bundle.layer.size, progress))


def _blob(repository: Repository, data: bytes) -> None:
    _upload(repository, Descriptor(frame.digest(data), len(data)), lambda: io.BytesIO(data))


def _upload(repository: Repository, blob: Descriptor, opened: Callable[[], BinaryIO | _Told]) -> None:
    """OCI distribution spec, "Pushing a blob monolithically": begin, then send it whole."""

    def job(endpoint: Endpoint) -> None:
        try:
            endpoint.request("HEAD", f"{repository.path}/blobs/{blob.digest}").close()
            return
        except Absent:
            pass
        begun = endpoint.request("POST", f"{repository.path}/blobs/uploads/", body=b"", ok=(202,))
        url = urljoin(endpoint.url(repository.path), begun.headers.get("Location", ""))
        begun.close()
        url += ("&" if "?" in url else "?") + urlencode({"digest": blob.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        endpoint.request("PUT", url, headers, opened(), ok=(201,)).close()

    _sent(repository, f"a place for the blob {blob.digest}", job)


def _manifest(repository: Repository, tag: str, image: bytes) -> None:
    path = f"{repository.path}/manifests/{tag}"
    _sent(
        repository,
        f"a place for {tag}",
        lambda endpoint: endpoint.request("PUT", path, {"Content-Type": MANIFEST_TYPE}, image, ok=(201,)).close(),
    )


def _sent(repository: Repository, what: str, job: Callable[[Endpoint], None]) -> None:
    try:
        repository.attempt(what, job)
    except Absent as exc:
        raise BundleUnavailable(f"the registry does not take it: {exc}", "check the registry and the name") from None


class _Told:
    """A stream that tells how much of it was read."""

    def __init__(self, stream: BinaryIO, size: int, progress: Progress | None) -> None:
        self._stream, self._size, self._progress, self._done = stream, size, progress, 0

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self._done += len(data)
        if self._progress:
            self._progress("pushing", self._done, self._size)
        return data
