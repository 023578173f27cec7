"""Push bundles to a registry as ordinary images, with their signatures and the judgements attached to them."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin

from ..disk.bundle import frame, judgement
from ..disk.bundle import signature as bundle_signature
from ..disk.bundle.reader import MANIFEST_TYPE, Bundle, Descriptor
from ..errors import BundleInvalid, BundleUnavailable, SignatureMissing
from ..linux.files import CHUNK
from ..model.impact.judgement import Attachment
from ..model.policy import reference
from ..model.policy.pillar import SIGNATURE_SUFFIX, Registry
from ..model.policy.reference import Reference
from ..progress import Progress
from . import artifact
from .artifact import Artifact
from .endpoint import ContentNotFound, Endpoint
from .repository import Repository


def push(
    path: str,
    place: Reference,
    declared: Mapping[str, Registry],
    test: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """
    Push the bundle ``path``, and ``path.sig`` and ``path.judged`` if they exist. Only missing blobs are sent.

    Args:
        path: The bundle.
        place: The repository and the tag.
        declared: The settings of registries by host.
        test: True for a dry run: nothing is sent.
        progress: Called with the step "pushing", the bytes sent and the total bytes.

    Returns:
        ``changed``, ``bundle``, ``hash``, ``source``, ``tag``, ``size`` in bytes, ``signed``, ``judged``.

    Raises:
        BundleInvalid: The file cannot be rebuilt from the registry's blobs byte for byte.
        BundleUnavailable: The registry does not answer, or refuses the blobs.
        SignatureInvalid: ``path.sig`` cannot be read.
        DigestMismatch: ``path.judged`` is about another bundle.
        RegistryDenied: The registry rejected the credentials or the request.
    """
    with contextlib.closing(Repository(place, declared)) as repository:
        repository.without_mirrors()
        return _push(path, place, repository, test, progress)


def _push(path: str, place: Reference, repository: Repository, test: bool, progress: Progress | None) -> dict[str, Any]:
    artifacts = []
    with contextlib.suppress(SignatureMissing):
        artifacts.append(artifact.of_signature(bundle_signature.read(path + SIGNATURE_SUFFIX)))
    with Bundle.open(path) as bundle:
        _check(bundle)
        with contextlib.suppress(FileNotFoundError):
            artifacts.append(artifact.of_judgement(judgement.read(path, bundle.digest)))
        image = bundle.image
        changed = repository.manifest(place.tag) != image
        if changed and not test:
            _push_layer(repository, bundle, progress)
            _push_blob(repository, bundle.config)
            _push_manifest(repository, place.tag, image)
        source = place.at(frame.digest(image))
        result = {"bundle": path, "hash": bundle.digest, "source": source, "tag": place.tag, "size": bundle.size}
    for item in artifacts:
        changed |= _push_artifact(repository, item, image, test)
    parts = {item.part for item in artifacts}
    return {
        "changed": changed,
        **result,
        "signed": reference.SIGNATURE in parts,
        "judged": reference.JUDGEMENT in parts,
    }


def attach(place: Reference, attachment: Attachment, declared: Mapping[str, Registry]) -> None:
    """
    Attach a judgement to a bundle in a registry.

    Args:
        place: The bundle, by digest.
        attachment: The judgement.
        declared: The settings of registries by host.

    Raises:
        BundleUnavailable: The registry does not answer, or does not have the bundle.
        RegistryDenied: The registry rejected the credentials or the request.
    """
    with contextlib.closing(Repository(place, declared)) as repository:
        repository.without_mirrors()
        image = repository.manifest(place.digest)
        if image is None:
            raise BundleUnavailable(f"{place.host} does not have {place}", "push the bundle first")
        _push_artifact(repository, artifact.of_judgement(attachment), image, test=False)


def _check(bundle: Bundle) -> None:
    """Refuse a bundle that nodes cannot rebuild byte for byte: hash and signature would not match."""
    if len(bundle.encodings) > 1:
        raise BundleInvalid(
            f"{bundle.path} has two encodings, which a registry would store as two images",
            "push a bundle that was built with delta=only, or without a delta",
        )
    sha, blob, stream = hashlib.sha256(), hashlib.sha256(), bundle.open_layer()
    sha.update(frame.head(bundle.layer.digest, bundle.layer.size))
    while data := stream.read(CHUNK):
        sha.update(data)
        blob.update(data)
    if "sha256:" + blob.hexdigest() != bundle.layer.digest:
        raise BundleInvalid(f"the layer of {bundle.path} is damaged")
    sha.update(frame.tail(bundle.layer.size, bundle.config, [bundle.image], bundle.manifest.target.version))
    if "sha256:" + sha.hexdigest() != bundle.digest:
        raise BundleInvalid(
            f"{bundle.path} was written by another tool: its bytes differ from those that baseimg writes",
            "push the file that baseimg.build wrote; nodes rebuild exactly that file",
        )


def _push_artifact(repository: Repository, item: Artifact, image: bytes, test: bool) -> bool:
    manifest = item.manifest(image)
    tag = reference.companion_tag(frame.digest(image), item.part)
    changed = repository.manifest(tag) != manifest
    if changed and not test:
        _push_blob(repository, artifact.EMPTY)
        for _media_type, data in item.blobs:
            _push_blob(repository, data)
        _push_manifest(repository, tag, manifest)
    return changed


def _push_layer(repository: Repository, bundle: Bundle, progress: Progress | None) -> None:
    _upload(repository, bundle.layer, lambda: _ProgressStream(bundle.open_layer(), bundle.layer.size, progress))


def _push_blob(repository: Repository, data: bytes) -> None:
    _upload(repository, Descriptor(frame.digest(data), len(data)), lambda: io.BytesIO(data))


def _upload(repository: Repository, blob: Descriptor, opened: Callable[[], BinaryIO | _ProgressStream]) -> None:
    """Send a blob unless the registry has it (OCI distribution spec, "Pushing a blob monolithically")."""

    def job(endpoint: Endpoint) -> None:
        try:
            endpoint.request("HEAD", f"{repository.path}/blobs/{blob.digest}").close()
            return
        except ContentNotFound:
            pass
        begun = endpoint.request("POST", f"{repository.path}/blobs/uploads/", body=b"", ok=(202,))
        url = urljoin(endpoint.url(repository.path), begun.headers.get("Location", ""))
        begun.close()
        url += ("&" if "?" in url else "?") + urlencode({"digest": blob.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        endpoint.request("PUT", url, headers, opened(), ok=(201,)).close()

    _require_accepted(repository, f"a place for the blob {blob.digest}", job)


def _push_manifest(repository: Repository, tag: str, image: bytes) -> None:
    path = f"{repository.path}/manifests/{tag}"
    _require_accepted(
        repository,
        f"a place for {tag}",
        lambda endpoint: endpoint.request("PUT", path, {"Content-Type": MANIFEST_TYPE}, image, ok=(201,)).close(),
    )


def _require_accepted(repository: Repository, what: str, job: Callable[[Endpoint], None]) -> None:
    try:
        repository.with_retries(what, job)
    except ContentNotFound as exc:
        raise BundleUnavailable(f"the registry refuses the push: {exc}", "check the registry and the name") from None


class _ProgressStream:
    """A stream that reports progress as it is read."""

    def __init__(self, stream: BinaryIO, size: int, progress: Progress | None) -> None:
        self._stream, self._size, self._progress, self._done = stream, size, progress, 0

    def read(self, count: int = -1) -> bytes:
        """Read up to ``count`` bytes and report progress."""
        data = self._stream.read(count)
        self._done += len(data)
        if self._progress:
            self._progress("pushing", self._done, self._size)
        return data
