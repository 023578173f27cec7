"""
An :class:`ImageStore` for images in archives, layouts and registries.

A build uses it in place of an engine. It needs no root. Each layer is read once, at its first use, into a spool that
:meth:`close` deletes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform as machine
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock, RLock

from ...errors import ImageUnknown, SpaceExhausted
from ...linux.files import remove_tree
from ...linux.scratch import scratch_directory
from ...model.images import manifest as documents
from ...model.images import source as sources
from ...model.images.manifest import Blob, ImageConfig, ImageManifest
from ...model.images.source import ARCHIVE, LAYOUT, REGISTRY, ImageSource, Platform
from ...model.stack import ids
from ...model.stack.owners import Owners
from ...model.stack.packed import PackedLayer
from ..base import Engine, Image
from .blobs import Archive, Blobs, Files, LayoutDirectory, read_document
from .layer import spool_layer

_MAX_INDEXES = 4  # nested
# names of uname(2) that differ from those of Go's GOARCH
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

#: Connects to the repository of an image. Arguments: the image, the directory for downloads, and True to keep the
#: downloads. Returns the blobs and the manifest or index of the image.
Connect = Callable[[ImageSource, str, bool], tuple[Blobs, bytes]]


def own_platform() -> Platform:
    """Return the platform of this machine."""
    return Platform("linux", _ARCHITECTURES.get(machine.machine(), machine.machine()))


@dataclass(frozen=True, slots=True)
class _StoredLayer:
    #: The layer as stored.
    blob: Blob
    #: The digest of its tar.
    diff_id: str
    #: The place of the layer.
    blobs: Blobs
    #: The image, for messages.
    where: str
    #: The directory for its contents.
    directory: str
    #: Held while it is read.
    lock: Lock


class ImageSources:
    """Images by name: those outside an engine, and all others from the engine. Several threads may use it."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        connect: Connect,
        platform: Platform | None = None,
        scratch: str | None = None,
        cache: str | None = None,
    ) -> None:
        """
        Args:
            engine: Connects to the engine of this machine.
            connect: Connects to a repository.
            platform: The platform of images in indexes; default: this machine's.
            scratch: The directory below which layers are spooled; default: ``TMPDIR``, else ``/tmp``.
            cache: The directory in which layers of registries stay; default: they are deleted at the end.
        """
        self._connect_engine, self._connect = engine, connect
        self._engine: Engine | None = None
        self._requested = platform
        self._platform = platform or own_platform()
        self._stack = contextlib.ExitStack()
        self._scratch = self._stack.enter_context(scratch_directory(scratch))
        self._downloads, self._keep = cache or self._scratch, cache is not None
        self._layers: dict[str, _StoredLayer] = {}
        #: By directory: a layer that several images have is read once.
        self._packed: dict[str, PackedLayer] = {}
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)
        self._lock, self._engine_lock = Lock(), RLock()
        self._images: dict[str, Image] = {}
        self._files: dict[tuple[str, str], Files] = {}

    def __enter__(self) -> ImageSources:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the spool, and close files and connections."""
        self._stack.close()

    @property
    def owners(self) -> Owners:
        """How the engine shifts the owners of layers; packed layers have the image's owners."""
        return self._engine.owners if self._engine else Owners()

    @property
    def storage(self) -> str:
        """The name of the engine's store; empty if no image of the engine was asked for."""
        return self._engine.storage if self._engine else ""

    def engine(self) -> Engine:
        """Return the engine of this machine."""
        with self._engine_lock:
            if self._engine is None:
                self._engine = self._connect_engine()
            return self._engine

    def images(self) -> list[Image]:
        """Return every image of the engine, if an image of the engine was asked for."""
        return self._engine.images() if self._engine else []

    def image(self, reference: str) -> Image:
        """
        Return an image by its name.

        Raises:
            ArgumentInvalid: The name is malformed, or means several images.
            ImageUnknown: The place does not have the image.
            LayerUnsupported: The image has a form that baseimg does not read.
            DigestMismatch: A document has another digest than declared.
        """
        source = sources.parse(reference)
        if source is None:
            with self._engine_lock:  # the clients of engines are not made for threads
                return self.engine().image(reference)
        if reference not in self._images:
            self._images[reference] = self._open(source)
        return self._images[reference]

    def packed_layer(self, chain_id: str, diff_id: str) -> PackedLayer | None:
        """
        Return a layer as it was packed, with its contents in its directory.

        Args:
            chain_id: Chain ID of the layer.
            diff_id: Diff ID of the layer.

        Raises:
            DigestMismatch: The layer has another digest than declared.
            LayerUnsupported: The layer has a form that baseimg does not read.
        """
        layer = self._layers.get(chain_id)
        if layer is None:
            return self.engine().packed_layer(chain_id, diff_id)
        spool = layer.directory
        with layer.lock:
            if spool not in self._packed:
                with layer.blobs.open(layer.blob) as stream:
                    self._packed[spool] = spool_layer(stream, layer.blob, layer.diff_id, spool, layer.where)
            return self._packed[spool]

    def release(self, directory: str) -> None:
        """Delete the spool of a layer that is not needed again. A later request reads the layer again."""
        if self._packed.pop(directory, None) is not None:
            remove_tree(os.path.dirname(directory))

    def _open(self, source: ImageSource) -> Image:
        blobs, manifest, image_id = self._resolve(source)
        raw = read_document(blobs.open, manifest.config, source.name)
        config = documents.parse_config(documents.document(raw, source.name), len(manifest.layers), source.name)
        self._check_platform(config, source)
        chain = ids.chain_ids(config.diff_ids)
        missing = [
            layer for layer, chain_id in zip(manifest.layers, chain, strict=True) if chain_id not in self._layers
        ]
        self._check_space(sum(layer.size or 0 for layer in missing), source.name)
        directories = self._directories(config.diff_ids)
        for blob, diff_id, chain_id, directory in zip(
            manifest.layers, config.diff_ids, chain, directories, strict=True
        ):
            with self._lock:
                lock = self._locks[directory]
                self._layers.setdefault(chain_id, _StoredLayer(blob, diff_id, blobs, source.name, directory, lock))
        names = manifest.names or ((source.reference,) if source.transport == REGISTRY else ())
        platform = config.platform
        return Image(
            image_id,
            names,
            config.diff_ids,
            directories,
            platform.os,
            platform.architecture,
            config.config,
            unpacked=False,
        )

    def _resolve(self, source: ImageSource) -> tuple[Blobs, ImageManifest, str]:
        """Return the place of an image, its manifest and its digest."""
        if source.transport == REGISTRY:
            blobs, data = self._connect(source, self._downloads, self._keep)
            self._stack.callback(blobs.close)
            return self._of_manifest(blobs, data, source, "")
        files = self._open_files(source)
        name = "manifest.json" if source.transport == ARCHIVE else "index.json"
        listed = files.document(name)
        if listed is None:
            raise ImageUnknown(f"{source.path} has no {name}", f"check that {source.transport} is the right kind")
        if source.transport != ARCHIVE:
            return self._of_manifest(files, listed, source, source.reference)
        manifest = documents.parse_archive(documents.document(listed, source.path), source.reference, source.path)
        return files, manifest, manifest.config.name

    def _open_files(self, source: ImageSource) -> Files:
        """Open an archive or a layout. Images of one archive share it."""
        key = (source.transport, source.path)
        with self._lock:
            if key not in self._files:
                opened: Files = LayoutDirectory(source.path) if source.transport == LAYOUT else Archive(source.path)
                self._stack.callback(opened.close)
                self._files[key] = opened
            return self._files[key]

    def _of_manifest(
        self, blobs: Blobs, data: bytes, source: ImageSource, name: str
    ) -> tuple[Blobs, ImageManifest, str]:
        """Follow indexes to the manifest of one platform."""
        digest = ""
        for _ in range(_MAX_INDEXES):
            raw = documents.document(data, source.name)
            if not documents.is_index(raw):
                return blobs, documents.parse_manifest(raw, source.name), digest or source.name
            blob = documents.choose(raw, self._platform, name, source.name)
            data, digest, name = read_document(blobs.open_manifest, blob, source.name), blob.name, ""
        raise documents.malformed(source.name, f"has more than {_MAX_INDEXES} nested indexes")

    def _check_platform(self, config: ImageConfig, source: ImageSource) -> None:
        own, requested = config.platform, self._requested
        if requested and (own.os, own.architecture) != (requested.os, requested.architecture):
            raise ImageUnknown(f"{source.name} is for {own}, not for {requested}", "give another platform=")

    def _check_space(self, size: int, where: str) -> None:
        st = os.statvfs(self._scratch)
        free = st.f_bavail * st.f_frsize
        if size > free:
            raise SpaceExhausted(
                f"the layers of {where} take more than {size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free in "
                f"{self._scratch}",
                "set TMPDIR to a directory with more space",
            )

    def _directories(self, diff_ids: Sequence[str]) -> list[str]:
        """
        Return the directories of an image's layers, named by diff ID: images share equal layers.

        If an image has a layer twice, each place has its own directory, because a stack contains a directory once.
        """
        directories = []
        for number, diff_id in enumerate(diff_ids):
            repeated = diff_ids[:number].count(diff_id)
            name = hashlib.sha256(f"{diff_id} {repeated}".encode()).hexdigest() if repeated else diff_id
            directories.append(os.path.join(self._scratch, name.removeprefix("sha256:"), "diff"))
        return directories
