"""
Pull bundles from a registry. The pulled file is identical to the pushed file, byte for byte.

::

    <cachedir>/baseimg/registry/       0700
        <hex>.tar                      a complete bundle, named after the digest of its OCI manifest
        <hex>.tar.part                 a partial download: the head and the first bytes of the layer blob
        <hex>.tar.sig                  the signature, as last fetched
        <hex>.tar.lock                 the lock of the process that fetches this bundle

Interrupted downloads resume. Downloads that fail verification are deleted. Files unused for a week are deleted. If the
cache exceeds 1 GiB, the oldest files are deleted. An operator may delete any file at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..disk.bundle import frame
from ..disk.bundle.reader import MAX_JSON, Descriptor, descriptors_of, manifest_of
from ..disk.store import space
from ..errors import BundleInvalid, BundleUnavailable, DigestMismatch, SignatureInvalid, SignatureMissing
from ..linux.files import CHUNK, make_directories, open_private, save, sync_directory, unlink_if_exists, write_all
from ..linux.oserrors import translate_os_errors
from ..linux.pace import Pace
from ..model import signature as model_signature
from ..model.policy import reference
from ..model.policy.pillar import Registry
from ..model.policy.reference import Reference
from ..progress import Progress
from . import artifact
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

    def fetch(self, source: str) -> str:
        """
        Fetch a bundle or its signature from ``docker://…`` and return the local path.

        Raises:
            BundleUnavailable: The registry does not answer, or does not have the bundle.
            RegistryDenied: The registry rejected the credentials or the request.
            DigestMismatch: The download failed verification.
            BundleInvalid: The image is not a bundle.
            SignatureMissing: The bundle has no signature.
            SignatureInvalid: The signature was not made by baseimg.push.
            SpaceExhausted: The file system has too little space.
        """
        place, signature = reference.parse_source(source)
        with translate_os_errors(self._home):
            make_directories(self._home)
            path = self._signature(place) if signature else self._bundle(place)
            self._used.add(path)
            self._prune()
            return path

    def resolve(self, source: str) -> None:
        """
        Ask the registry for the manifest of a bundle, and download nothing.

        Raises:
            BundleUnavailable: The registry does not answer, or does not have the bundle.
            RegistryDenied: The registry rejected the credentials or the request.
        """
        place, _signature = reference.parse_source(source)
        self._manifest(place, place.digest or place.tag)

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
        with PartialBundle(path + ".part", layer, self._pace, self._progress) as part:
            # wrong bytes may come from an earlier run or a mirror: retry once, from the registry itself
            if not self._layer(repository, layer, part, part.size > 0 or repository.has_mirrors):
                repository.without_mirrors()
                self._layer(repository, layer, part, False)
            part.complete(frame.tail(layer.size, about, [image], version), path)

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

    @staticmethod
    def _layer(repository: Repository, layer: Descriptor, part: PartialBundle, again: bool) -> bool:
        try:
            repository.download(layer, part)
            part.verify_digest()
        except DigestMismatch:
            part.restart()
            if not again:
                part.discard()
                raise
            return False
        return True

    def _signature(self, place: Reference) -> str:
        digest = self._digest(place)
        repository = self._repository(place)
        path = self._path(digest) + ".sig"
        image = repository.manifest(reference.signature_tag(digest))
        if image is None:
            unlink_if_exists(path)
            raise SignatureMissing(
                f"{place} has no signature", "sign the bundle, and push it again (docs/operating/registry.md)"
            )
        blob = artifact.signature_blob(image)
        if blob is None or blob.size > model_signature.MAX_SIZE:
            raise SignatureInvalid(f"the signature of {place} was not made by baseimg.push")
        data = repository.fetch_bytes(blob, model_signature.MAX_SIZE)
        with self._locked(path):
            save(path, data)
        return path

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


class PartialBundle:
    """
    A bundle file during its download: the head, then the received bytes of the layer blob.

    If a transfer is interrupted, the file is kept and the next run resumes. An ``OSError`` (disk full) deletes it.
    """

    def __init__(self, path: str, layer: Descriptor, pace: Pace | None, progress: Progress | None) -> None:
        self._path, self._layer, self._pace, self._progress = path, layer, pace, progress
        self._file = open(open_private(path, os.O_RDWR), "r+b", buffering=0)  # noqa: SIM115
        self._sha = hashlib.sha256()
        self._size = 0
        self._resume()

    def __enter__(self) -> PartialBundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(exc, OSError):
            self.discard()

    @property
    def size(self) -> int:
        """Bytes of the blob received so far."""
        return self._size

    def write(self, data: bytes) -> None:
        """Append the next bytes of the blob."""
        write_all(self._file.fileno(), data)
        if self._pace:
            self._pace.written(self._file.fileno(), frame.HEAD + self._size, len(data))
        self._sha.update(data)
        self._size += len(data)
        if self._progress:
            self._progress("fetching", self._size, self._layer.size)

    def restart(self) -> None:
        """Discard the received bytes and start again."""
        self._file.seek(0)
        self._file.truncate()
        write_all(self._file.fileno(), frame.head(self._layer.digest, self._layer.size))
        self._sha, self._size = hashlib.sha256(), 0

    def verify_digest(self) -> None:
        """
        Verify the digest of the complete blob.

        Raises:
            DigestMismatch: It differs.
        """
        digest = "sha256:" + self._sha.hexdigest()
        if digest != self._layer.digest:
            raise DigestMismatch(f"the registry's blob {self._layer.digest} has the digest {digest}")

    def complete(self, tail: bytes, path: str) -> None:
        """Append the tail, fsync, and rename the file to ``path``."""
        write_all(self._file.fileno(), tail)
        os.fsync(self._file.fileno())
        os.rename(self._path, path)
        sync_directory(os.path.dirname(path))

    def discard(self) -> None:
        """Delete the file."""
        unlink_if_exists(self._path)

    def _resume(self) -> None:
        """Hash the bytes of an earlier transfer and continue after them; :meth:`verify_digest` verifies them."""
        size = os.fstat(self._file.fileno()).st_size - frame.HEAD
        if not 0 < size <= self._layer.size:
            self.restart()
            return
        self._file.seek(frame.HEAD)
        while data := self._file.read(CHUNK):
            self._sha.update(data)
            self._size += len(data)
