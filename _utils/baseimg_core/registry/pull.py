"""
Pull bundles from a registry. The pulled file is identical to the pushed file, byte for byte.

::

    <cachedir>/baseimg/registry/       0700
        <hex>.tar                      a complete bundle, named after the digest of its OCI manifest
        <hex>.tar.part                 a partial download: the head and the first bytes of the layer blob
        <hex>.tar.sig                  the signature, as last fetched
        <hex>.tar.judged[.sig]         the attached judgement and its signature, as last fetched
        <hex>.tar.lock                 the lock of the process that fetches this bundle

Interrupted downloads resume. Downloads that fail verification are deleted. Files unused for a week are deleted. If the
cache exceeds 1 GiB, the oldest files are deleted. An operator may delete any file at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..disk.bundle import frame
from ..disk.bundle.reader import MAX_JSON, Descriptor, descriptors_of, manifest_of
from ..disk.store import space
from ..errors import BundleInvalid, BundleUnavailable, SignatureInvalid, SignatureMissing
from ..linux.files import make_directories, open_private, save, unlink_if_exists
from ..linux.oserrors import translate_os_errors
from ..linux.pace import Pace
from ..model import signature as model_signature
from ..model.impact import judgement
from ..model.policy import reference
from ..model.policy.pillar import JUDGEMENT_SUFFIX, SIGNATURE_SUFFIX, Registry
from ..model.policy.reference import Reference
from ..progress import Progress
from . import artifact
from .partial import PartialBlob
from .repository import Repository

_LOCK_SECONDS = 600  # longer than most downloads take
_LOCK_PAUSE = 0.1  # seconds
_MAX_BYTES = 1 << 30
_MAX_AGE = 7 * 24 * 3600  # seconds
_MIN_AGE = 3600  # seconds


class BundleCache:
    """
    The local cache of bundles from registries.

    Each tag is resolved once, so a bundle and its signature always match.
    """

    def __init__(
        self,
        home: str,
        declared: Mapping[str, Registry],
        progress: Progress | None = None,
        reserve: int = 0,
        rate: float = math.inf,
    ) -> None:
        """
        Args:
            home: The directory of the cache.
            declared: The settings of registries by host.
            progress: Called with the step "fetching", the bytes done and the total bytes.
            reserve: The percentage of the file system that a download leaves free.
            rate: Bytes a second that are downloaded at most.
        """
        self._pace = Pace(rate) if rate < math.inf else None
        self._home, self._declared, self._progress, self._reserve = home, declared, progress, reserve
        self._used: set[str] = set()
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._manifests: dict[str, bytes] = {}
        self._fetchers = {
            "": self._bundle,
            reference.SIGNATURE: self._signature,
            reference.JUDGEMENT: self._judgement,
            reference.SIGNED_JUDGEMENT: self._judgement_signature,
        }

    def fetch(self, source: str) -> str:
        """
        Fetch a bundle, or what belongs to it, from ``docker://…`` and return the local path.

        Raises:
            BundleUnavailable: The registry does not answer, or does not have the bundle or a judgement of it.
            RegistryDenied: The registry rejected the credentials or the request.
            DigestMismatch: The download failed verification.
            BundleInvalid: The image is not a bundle.
            SignatureMissing: The bundle has no signature.
            SignatureInvalid: The signature was not made by baseimg.push.
            SpaceExhausted: The file system has too little space.
        """
        place, part = reference.parse_source(source)
        with translate_os_errors(self._home):
            make_directories(self._home)
            path = self._fetchers[part](place)
            self._used.add(path)
            self._prune()
            return path

    def resolve(self, source: str) -> str:
        """
        Ask the registry for the manifest of a bundle, download nothing, and return the source with its digest.

        Raises:
            BundleUnavailable: The registry does not answer, or does not have the bundle.
            RegistryDenied: The registry rejected the credentials or the request.
        """
        place, _part = reference.parse_source(source)
        return place.at(frame.digest(self._manifest(place, place.digest or place.tag)))

    def close(self) -> None:
        """Close all connections and files."""
        if self._pace:
            self._pace.close()
        for repository in self._repositories.values():
            repository.close()

    def _bundle(self, place: Reference) -> str:
        digest = self._digest(place)
        path = self._path(digest)
        with self._locked(path):
            if os.path.exists(path):
                os.utime(path)  # mark as used, for _prune
            else:
                self._pull(place, self._manifest(place, digest), path)
        return path

    def _pull(self, place: Reference, image: bytes, path: str) -> None:
        repository = self._repository(place)
        config, layer = descriptors_of(image)
        if config.size > MAX_JSON:
            raise BundleInvalid(f"the image config of {place} has {config.size} bytes")
        about = repository.fetch_bytes(config)
        version = manifest_of(about).target.version
        self._check_space(path, layer)
        head = frame.head(layer.digest, layer.size)
        with PartialBlob(path + ".part", layer, head, self._pace, self._progress) as part:
            part.fill(repository)
            part.complete(path, frame.tail(layer.size, about, [image], version))

    def _check_space(self, path: str, layer: Descriptor) -> None:
        """Refuse a download that does not fit. The OCI manifest states the size."""
        part = path + ".part"
        present = os.path.getsize(part) if os.path.exists(part) else 0
        missing = max(layer.size - present, 0)
        space.check_space(self._home, missing, 1, self._reserve, lambda: "the cache of bundles is in this file system")

    def _prune(self) -> None:
        """Delete files unused for a week, and the oldest files if the cache is too large."""
        files = []
        with os.scandir(self._home) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    files.append((time.time() - entry.stat().st_mtime, entry.stat().st_size, entry.path))
        total = sum(size for _age, size, _path in files)
        for age, size, path in sorted(files, reverse=True):
            # another process may be about to open a younger file
            if path in self._used or age < _MIN_AGE:
                continue
            if age > _MAX_AGE or total > _MAX_BYTES:
                unlink_if_exists(path)
                total -= size

    def _signature(self, place: Reference) -> str:
        path = self._path(self._digest(place)) + SIGNATURE_SUFFIX
        image = self._artifact(place, reference.SIGNATURE)
        if image is None:
            unlink_if_exists(path)
            raise SignatureMissing(
                f"{place} has no signature", "sign the bundle, and push it again (docs/operating/registry.md)"
            )
        self._save_signature(place, image, path)
        return path

    def _judgement(self, place: Reference) -> str:
        path = self._path(self._digest(place)) + JUDGEMENT_SUFFIX
        image = self._artifact(place, reference.JUDGEMENT)
        if image is None:
            unlink_if_exists(path)
            raise BundleUnavailable(f"{place} has no attached judgement", "run baseimg judge --attach")
        blob = artifact.blob_of_type(image, artifact.JUDGEMENT_TYPE)
        if blob is None or blob.size > judgement.MAX_SIZE:
            raise BundleInvalid(f"the judgement of {place} was not attached by baseimg judge")
        self._save(place, blob, judgement.MAX_SIZE, path)
        return path

    def _judgement_signature(self, place: Reference) -> str:
        path = self._path(self._digest(place)) + JUDGEMENT_SUFFIX + SIGNATURE_SUFFIX
        image = self._artifact(place, reference.JUDGEMENT)
        if image is None or not artifact.blob_of_type(image, artifact.SIGNATURE_TYPE):
            unlink_if_exists(path)
            raise SignatureMissing(
                f"the judgement of {place} has no signature", "run baseimg judge --attach --key FILE"
            )
        self._save_signature(place, image, path)
        return path

    def _artifact(self, place: Reference, part: str) -> bytes | None:
        return self._repository(place).manifest(reference.companion_tag(self._digest(place), part))

    def _save_signature(self, place: Reference, image: bytes, path: str) -> None:
        blob = artifact.blob_of_type(image, artifact.SIGNATURE_TYPE)
        if blob is None or blob.size > model_signature.MAX_SIZE:
            raise SignatureInvalid(f"the signature of {place} was not made by baseimg.push")
        self._save(place, blob, model_signature.MAX_SIZE, path)

    def _save(self, place: Reference, blob: Descriptor, limit: int, path: str) -> None:
        data = self._repository(place).fetch_bytes(blob, limit)
        with self._locked(path):
            save(path, data)

    def _digest(self, place: Reference) -> str:
        """Return the digest of the bundle's OCI manifest. Only tags need a request."""
        return place.digest or frame.digest(self._manifest(place, place.tag))

    def _manifest(self, place: Reference, name: str) -> bytes:
        key = f"{place.host}/{place.name} {name}"
        if key not in self._manifests:
            image = self._repository(place).manifest(name)
            if image is None:
                raise BundleUnavailable(f"{place.host} does not have {place}", "check name and tag, or push the bundle")
            self._manifests[key] = image
            self._manifests[f"{place.host}/{place.name} {frame.digest(image)}"] = image
        return self._manifests[key]

    def _repository(self, place: Reference) -> Repository:
        key = (place.host, place.name)
        if key not in self._repositories:
            self._repositories[key] = Repository(place, self._declared)
        return self._repositories[key]

    def _path(self, digest: str) -> str:
        return os.path.join(self._home, digest.removeprefix("sha256:") + ".tar")

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        """Lock one file of the cache: one process fetches the file, the others wait for it."""
        lock, deadline = path + ".lock", time.monotonic() + _LOCK_SECONDS
        while (descriptor := _try_lock(lock)) is None:
            if time.monotonic() > deadline:
                raise BundleUnavailable(
                    f"another process has been fetching {os.path.basename(path)} for {_LOCK_SECONDS} s",
                    "run again when it has finished, or end it",
                )
            time.sleep(_LOCK_PAUSE)
        try:
            yield
        finally:
            unlink_if_exists(lock)
            os.close(descriptor)


def _try_lock(path: str) -> int | None:
    """Return a descriptor that holds the lock file ``path``; ``None`` if another process holds it."""
    descriptor = open_private(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the previous holder deletes the lock file, so this descriptor may belong to a deleted file
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
