"""
Take bundles from a registry: the same file again that was pushed, to the byte.

::

    <cachedir>/baseimg/registry/       0700
        <hex>.tar                      a whole bundle, by the digest of its OCI manifest
        <hex>.tar.part                 one that is not whole yet: its layer blob so far, at its place in the file
        <hex>.tar.sig                  its signature, as it was the last time

A part is gone on with, wherever the transfer was broken off; one that turns out wrong is removed. All of it may be
removed at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..disk.bundle import frame
from ..disk.bundle.reader import MAX_JSON, Descriptor, carried, parts
from ..errors import BundleInvalid, BundleUnavailable, DigestMismatch, SignatureInvalid, SignatureMissing
from ..linux.files import CHUNK, discard, save, sync_directory, write_all
from ..linux.oserrors import translate_os_errors
from ..model import signature as model_signature
from ..model.policy import reference
from ..model.policy.pillar import Registry
from ..model.policy.reference import Reference
from ..progress import Progress
from . import artifact
from .repository import Repository


class Cache:
    """
    Bundles from registries, below ``home``. ``declared`` is what is known of registries, by host.

    What a tag names is asked once, so that a bundle and its signature belong together.
    """

    def __init__(self, home: str, declared: Mapping[str, Registry], progress: Progress | None = None) -> None:
        self._home, self._declared, self._progress = home, declared, progress
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._manifests: dict[str, bytes] = {}

    def fetch(self, source: str) -> str:
        """
        The path of the bundle at ``docker://…``, or of its signature where that is meant.

        Raises :class:`BundleUnavailable`, :class:`RegistryDenied`, :class:`DigestMismatch`, :class:`BundleInvalid`
        where it is no bundle, and for a signature :class:`SignatureMissing`, :class:`SignatureInvalid`.
        """
        place, signature = reference.split_signature(source)
        with translate_os_errors(self._home):
            os.makedirs(self._home, mode=0o700, exist_ok=True)
            os.chmod(self._home, 0o700)
            return self._signature(place) if signature else self._bundle(place)

    def _bundle(self, place: Reference) -> str:
        digest = self._digest(place)
        path = self._path(digest)
        with self._alone():
            if not os.path.exists(path):
                self._pull(place, self._manifest(place, digest), path)
        return path

    def _pull(self, place: Reference, image: bytes, path: str) -> None:
        repository = self._repository(place)
        config, layer = parts(image)
        if config.size > MAX_JSON:
            raise BundleInvalid(f"the image config of {place} has {config.size} bytes")
        about = repository.small(config)
        version = carried(about).target.version
        with Part(path + ".part", layer, self._progress) as part:
            # wrong bytes may be of an earlier run or of a mirror; then once more, from the registry alone
            if not self._layer(repository, layer, part, part.size > 0 or repository.has_mirrors):
                repository.without_mirrors()
                self._layer(repository, layer, part, False)
            part.complete(frame.tail(layer.size, about, [image], version), path)

    @staticmethod
    def _layer(repository: Repository, layer: Descriptor, part: Part, again: bool) -> bool:
        try:
            repository.download(layer, part)
            part.check()
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
            discard(path)
            raise SignatureMissing(
                f"{place} has no signature", "sign the bundle, and push it again (docs/operating/registry.md)"
            )
        blob = artifact.signature_blob(image)
        if blob is None or blob.size > model_signature.MAX_SIZE:
            raise SignatureInvalid(f"the signature of {place} is not one that baseimg.push has made")
        data = repository.small(blob, model_signature.MAX_SIZE)
        with self._alone():
            save(path, data)
        return path

    def _digest(self, place: Reference) -> str:
        """The digest of the bundle's OCI manifest: only a tag has to be asked for."""
        return place.digest or frame.digest(self._manifest(place, place.tag))

    def _manifest(self, place: Reference, wanted: str) -> bytes:
        key = f"{place.host}/{place.name} {wanted}"
        if key not in self._manifests:
            image = self._repository(place).manifest(wanted)
            if image is None:
                raise BundleUnavailable(f"{place.host} has no {place}", "check name and tag, or push the bundle")
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
    def _alone(self) -> Iterator[None]:
        """One process at a time fills the cache; the others find what it fetched."""
        descriptor = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Part:
    """
    A bundle's file while its layer blob arrives: the head, then as much of the blob as is there.

    A transfer that is broken off leaves it for the next one; a full disk does not.
    """

    def __init__(self, path: str, layer: Descriptor, progress: Progress | None) -> None:
        self._path, self._wanted, self._progress = path, layer, progress
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = open(os.open(path, flags, 0o600), "r+b", buffering=0)  # noqa: SIM115
        self._sha = hashlib.sha256()
        self._size = 0
        self._read()

    def __enter__(self) -> Part:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(exc, OSError):
            self.discard()

    @property
    def size(self) -> int:
        """Bytes of the blob that are there."""
        return self._size

    def write(self, data: bytes) -> None:
        """The next bytes of the blob."""
        write_all(self._file.fileno(), data)
        self._sha.update(data)
        self._size += len(data)
        if self._progress:
            self._progress("fetching", self._size, self._wanted.size)

    def restart(self) -> None:
        """Nothing of the blob is there."""
        self._file.seek(0)
        self._file.truncate()
        write_all(self._file.fileno(), frame.head(self._wanted.digest, self._wanted.size))
        self._sha, self._size = hashlib.sha256(), 0

    def check(self) -> None:
        """Whether it is the blob; raises :class:`DigestMismatch`."""
        found = "sha256:" + self._sha.hexdigest()
        if found != self._wanted.digest:
            raise DigestMismatch(f"the registry's blob {self._wanted.digest} has the digest {found}")

    def complete(self, tail: bytes, path: str) -> None:
        """The file is whole, durable, and has its name."""
        write_all(self._file.fileno(), tail)
        os.fsync(self._file.fileno())
        os.rename(self._path, path)
        sync_directory(os.path.dirname(path))

    def discard(self) -> None:
        """Keep nothing of it."""
        discard(self._path)

    def _read(self) -> None:
        """Go on behind what an earlier transfer has left; only its digest will tell what it is worth."""
        left = os.fstat(self._file.fileno()).st_size - frame.HEAD
        if not 0 < left <= self._wanted.size:
            self.restart()
            return
        self._file.seek(frame.HEAD)
        while data := self._file.read(CHUNK):
            self._sha.update(data)
            self._size += len(data)
