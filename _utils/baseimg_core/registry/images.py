"""Images in a registry: the manifest of a name, and its blobs. Interrupted downloads resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import BinaryIO

from ..disk.bundle.reader import Descriptor
from ..errors import DigestMismatch, ImageUnknown
from ..linux.files import open_private, unlink_if_exists, write_all
from ..linux.oserrors import translate_os_errors
from ..model.images.manifest import INDEX_TYPES, MANIFEST_TYPES, Blob
from ..model.images.source import ImageSource
from ..model.policy import reference
from ..model.policy.pillar import Registry
from ..progress import Progress
from .repository import Repository

_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))


def connect(
    source: ImageSource, directory: str, declared: Mapping[str, Registry], progress: Progress | None = None
) -> tuple[RegistryBlobs, bytes]:
    """
    Ask a registry for the manifest or the index of an image.

    Args:
        source: The image.
        directory: The directory for downloads.
        declared: The settings of registries by host.
        progress: Called with the step "fetching", the bytes done and the total bytes.

    Returns:
        The blobs of its repository, and the document.

    Raises:
        ImageUnknown: The registry does not have the image.
        BundleUnavailable: The registry does not answer.
        RegistryDenied: The registry rejected the credentials or the request.
    """
    place = reference.parse(source.name)
    repository = Repository(place, declared)
    try:
        data = repository.manifest(place.digest or place.tag, _ACCEPT)
        if data is None:
            raise ImageUnknown(f"{place.host} does not have {place}", "check the name and the tag")
        return RegistryBlobs(repository, directory, progress), data
    except BaseException:
        repository.close()
        raise


class RegistryBlobs:
    """The blobs of one repository. Each layer is downloaded, verified, and then read from the file."""

    def __init__(self, repository: Repository, directory: str, progress: Progress | None = None) -> None:
        """``directory`` holds the downloads; ``progress`` is called with "fetching" and the bytes."""
        self._repository, self._directory, self._progress = repository, directory, progress

    def open(self, blob: Blob) -> BinaryIO:
        """
        Download a blob and return it as a stream.

        Raises:
            BundleUnavailable: The download failed.
            DigestMismatch: The blob has another digest.
        """
        path = os.path.join(self._directory, blob.name.removeprefix("sha256:") + ".blob")
        with translate_os_errors(path):
            with _Download(path, blob, self._progress) as download:
                self._repository.download(Descriptor(blob.name, blob.size or 0), download)
                download.verify()
            file = open(path, "rb")  # noqa: SIM115, the caller closes it
            os.unlink(path)  # the open file keeps the content
        return file

    def close(self) -> None:
        """Close all connections."""
        self._repository.close()


class _Download:
    """A file that a download fills."""

    def __init__(self, path: str, blob: Blob, progress: Progress | None) -> None:
        self._path, self._blob, self._progress = path, blob, progress
        unlink_if_exists(path)
        self._descriptor = open_private(path, os.O_RDWR)
        self._sha, self.size = hashlib.sha256(), 0

    def __enter__(self) -> _Download:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Append the next bytes of the blob."""
        write_all(self._descriptor, data)
        self._sha.update(data)
        self.size += len(data)
        if self._progress:
            self._progress("fetching", self.size, self._blob.size or 0)

    def restart(self) -> None:
        """Discard all bytes."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._sha, self.size = hashlib.sha256(), 0

    def verify(self) -> None:
        """Raise :class:`DigestMismatch` if the complete blob has another digest."""
        digest = "sha256:" + self._sha.hexdigest()
        if digest != self._blob.name:
            raise DigestMismatch(
                f"the registry's blob {self._blob.name} has the digest {digest}", "push the image again"
            )
