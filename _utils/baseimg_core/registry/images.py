"""
Images in a registry: the manifest of a name, and its blobs.

::

    <directory>/<hex>.blob          a layer, named after its digest
    <directory>/<hex>.blob.part     the first bytes of a layer; an interrupted download resumes, also in the next run

The directory is a cache of at most 10 GiB, or the scratch directory of one run. An operator may delete any file.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Mapping
from typing import BinaryIO

from ..disk.bundle.reader import Descriptor
from ..errors import ImageUnknown
from ..linux.files import hex_digest, unlink_if_exists
from ..linux.oserrors import translate_os_errors
from ..model.images.manifest import INDEX_TYPES, MANIFEST_TYPES, Blob
from ..model.images.source import ImageSource
from ..model.policy import reference
from ..model.policy.pillar import Registry
from ..progress import Progress
from .partial import PartialBlob
from .repository import Repository

_MAX_BYTES = 10 << 30  # of all layers in a directory
_LAYER = re.compile(r"[0-9a-f]{64}\.blob(\.part)?")
_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))


def connect(
    source: ImageSource,
    directory: str,
    keep: bool,
    declared: Mapping[str, Registry],
    progress: Progress | None = None,
) -> tuple[RegistryBlobs, bytes]:
    """
    Ask a registry for the manifest or the index of an image.

    Args:
        source: The image.
        directory: The directory for downloads.
        keep: True if they stay there, for the next run.
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
        return RegistryBlobs(repository, directory, keep, progress), data
    except BaseException:
        repository.close()
        raise


class RegistryBlobs:
    """The blobs of one repository. Each layer is downloaded, verified, and then read from the file."""

    def __init__(
        self, repository: Repository, directory: str, keep: bool = False, progress: Progress | None = None
    ) -> None:
        """
        Args:
            repository: The repository.
            directory: The directory for the layers.
            keep: True if the layers stay there, for the next run.
            progress: Called with "fetching", the bytes so far, and all bytes.
        """
        self._repository, self._directory, self._keep, self._progress = repository, directory, keep, progress

    def open(self, blob: Blob) -> BinaryIO:
        """
        Return a blob as a stream; download it if the directory does not have it.

        Raises:
            BundleUnavailable: The download failed. The next run resumes it.
            DigestMismatch: The blob has another digest.
        """
        path = os.path.join(self._directory, blob.name.removeprefix("sha256:") + ".blob")
        descriptor = Descriptor(blob.name, blob.size or 0)
        with translate_os_errors(path), PartialBlob(path + ".part", descriptor, progress=self._progress) as part:
            if not _is_intact(path, blob):
                part.fill(self._repository)
                part.complete(path, durable=False)
            file = open(path, "rb")  # noqa: SIM115, the caller closes it
            if self._keep:
                os.utime(path)  # mark as used, for _prune
                _prune(self._directory)
            else:
                os.unlink(path)  # the open file keeps the content
        return file

    def open_manifest(self, blob: Blob) -> BinaryIO:
        """
        Return a manifest from an index, as a stream.

        Raises:
            ImageUnknown: The registry does not have it.
            BundleUnavailable: The registry does not answer.
        """
        data = self._repository.manifest(blob.name, _ACCEPT)
        if data is None:
            raise ImageUnknown(
                f"the registry does not have the manifest {blob.name} of an index", "push the image again, with --all"
            )
        return io.BytesIO(data)

    def close(self) -> None:
        """Close all connections."""
        self._repository.close()


def _is_intact(path: str, blob: Blob) -> bool:
    """True if an earlier run left this blob with its digest; a damaged file is deleted."""
    if not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        intact = "sha256:" + hex_digest(file) == blob.name
    if not intact:
        unlink_if_exists(path)
    return intact


def _prune(directory: str) -> None:
    """Delete the layers that were not used for longest if all layers exceed the limit. Open files stay readable."""
    files = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process may prune
                if _LAYER.fullmatch(entry.name):
                    files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = sum(size for _time, size, _path in files)
    for _time, size, path in sorted(files)[:-1]:
        if total <= _MAX_BYTES:
            return
        unlink_if_exists(path)
        total -= size
