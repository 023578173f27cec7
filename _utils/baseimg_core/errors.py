"""
The errors of the core.

Every error that leaves the core is a :class:`BaseimgError` with a stable ``code`` for programs, a message that names
the object and the reason, and a ``hint`` with the next command. A subclass exists if a caller handles it differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .display import printable
from .redact import redact


def _safe(text: str) -> str:
    """Return a text without secrets and without control characters."""
    return printable(redact(text), len(text), keep="\n")


class BaseimgError(Exception):
    """
    An error that an operator can act on.

    Attributes:
        code: A stable code for programs. It never changes once released.
        message: The object and the reason.
        hint: The next command to run.
        result: The changes that the operation made before it failed, in the form of its result; empty without changes.
    """

    code = "baseimg"
    hint = ""

    def __init__(self, message: str, hint: str = "", result: Mapping[str, Any] | None = None) -> None:
        message = _safe(message)
        super().__init__(message)
        self.result = dict(result or {})
        self.message = message
        self.hint = _safe(hint or self.hint)

    def as_dict(self) -> dict[str, Any]:
        """Return the error as data, for results and ``info``."""
        data = {"code": self.code, "message": self.message, "hint": self.hint}
        return {**data, "result": self.result} if self.result else data

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}" + (f" -- {self.hint}" if self.hint else "")


class ArgumentInvalid(BaseimgError):
    """An argument or a pillar value is wrong. The message names the key, the value, and what was expected."""

    code = "argument-invalid"
    hint = "correct it and run again; nothing was changed"


class DependencyMissing(BaseimgError):
    """A Python package that this operation needs is not installed."""

    code = "dependency-missing"
    hint = "install the package into the Python that runs Salt"


class EngineUnreachable(BaseimgError):
    """No container engine answers at the address."""

    code = "engine-unreachable"
    hint = "start the engine, or set 'docker.url' in the minion's configuration or DOCKER_HOST in its environment"


class StorageUnsupported(BaseimgError):
    """The engine stores its layers in a way that baseimg does not support."""

    code = "storage-unsupported"
    hint = (
        "supported, rootful: Docker with overlay2 or with containerd's overlayfs snapshotter, Podman with overlay, and "
        "containerd with overlayfs; baseimg.engines lists the engines of this node (docs/design/engines.md)"
    )


class FilesystemUnsuitable(BaseimgError):
    """The kernel or the file system of the engine's layers lacks a feature that generations need."""

    code = "filesystem-unsuitable"
    hint = "use ext4, xfs or btrfs, and a minion as root without a seccomp filter (docs/reference/store-format.md)"


class ImageUnknown(BaseimgError):
    """The engine does not know the image."""

    code = "image-unknown"
    hint = "check the reference with 'docker image ls', or load the image first"


class DeclarationContradictory(BaseimgError):
    """Pillar declares two versions for one base, under two of its names."""

    code = "declaration-contradictory"
    hint = "declare one version for both names, or remove one of them from pillar; baseimg.layer shows their chain IDs"


class BaseAmbiguous(BaseimgError):
    """Several contents on the node bear the name of a base, and one of them cannot reach the declared version."""

    code = "base-ambiguous"
    hint = "declare a bundle that leads from each content, or select one content with chain_id"


class BaseAbsent(BaseimgError):
    """No image on this node is built on the base."""

    code = "base-absent"
    hint = "normal on a node without images on this base; otherwise correct the reference or give a chain ID"

    def __init__(self, message: str, hint: str = "", suggestion: str = "") -> None:
        """
        Args:
            message: The object and the reason.
            hint: The next command to run.
            suggestion: A reference on this node that resembles the requested one; empty if there is none.
        """
        super().__init__(message, f"did you mean {suggestion}?" if suggestion else hint)
        self.suggestion = suggestion
        #: The engines that were examined (:mod:`ops.coverage`), by outcome.
        self.coverage: dict[str, list[str]] = {"examined": [], "elsewhere": [], "unexamined": []}

    def as_dict(self) -> dict[str, Any]:
        """Return the error as data; ``suggestion`` is empty if no name resembles the reference."""
        return {**super().as_dict(), "suggestion": self.suggestion, "coverage": self.coverage}


class ImagesEqual(BaseimgError):
    """Source and target show the same content. There is no difference to build a bundle from."""

    code = "images-equal"
    hint = "give two different versions of the base"


class BundleInvalid(BaseimgError):
    """The file is not a bundle, is truncated, damaged or hostile, or has an unknown format version."""

    code = "bundle-invalid"
    hint = "build or fetch the bundle again"


class BundleUnavailable(BaseimgError):
    """The bundle could not be fetched from its declared source."""

    code = "bundle-unavailable"
    hint = "check the source: a path on the node, docker://, or what cp.cache_file takes (salt://, http(s)://, s3://)"


class RegistryDenied(BaseimgError):
    """The registry rejected our credentials or denied the operation."""

    code = "registry-denied"
    hint = (
        "log in with 'docker login HOST' as the user that the minion runs as, or check what that account may do; "
        "a config.json elsewhere is named by DOCKER_CONFIG in the minion's environment (docs/operating/registry.md)"
    )


class DigestMismatch(BundleInvalid):
    """The digest of the bytes differs from the declared digest."""

    code = "digest-mismatch"
    hint = "fetch the bundle again; if it fails again, correct the declared digest or rebuild the bundle"


class SignatureMissing(BaseimgError):
    """The bundle is unsigned and this node requires signatures."""

    code = "signature-missing"
    hint = "sign the bundle with baseimg.sign, and put the file BUNDLE.sig beside it (docs/operating/signatures.md)"


class SignatureInvalid(BaseimgError):
    """The signature is damaged, is for another file or purpose, or was made with an untrusted key."""

    code = "signature-invalid"
    hint = (
        "do not use this bundle until the reason is known; sign it again with baseimg.sign, or declare the key "
        "in baseimg:trusted_keys (docs/operating/signatures.md)"
    )


class SignatureUnsupported(BaseimgError):
    """Signatures need a Python package that is not installed."""

    code = "signature-unsupported"
    hint = "install the Python package 'cryptography' beside Salt on this machine"


class CompressionUnsupported(BaseimgError):
    """The compression of the bundle needs a Python package that is not installed."""

    code = "compression-unsupported"
    hint = "install the Python package 'zstandard' beside Salt on this node, or build with compression=gzip"


class BundleMismatch(BaseimgError):
    """The bundle is valid, but for another base or from a version that the base does not show."""

    code = "bundle-mismatch"
    hint = "give a bundle whose source is a version that this base can show (see baseimg.status)"


class DeltaMismatch(BaseimgError):
    """The old files that the bundle needs differ on this node from those that it was built from."""

    code = "delta-mismatch"
    hint = "baseimg.verify lists the changed files; build the bundle again from the images that this node has"


class DeviceRefused(BaseimgError):
    """The bundle carries a device node that this node refuses."""

    code = "device-refused"
    hint = "find out why the base needs it; 'baseimg:allow_devices: true' in the minion's configuration allows it"


class VersionUnknown(BaseimgError):
    """The version is not on the node, and no chain of declared bundles produces it."""

    code = "version-unknown"
    hint = "baseimg.status lists the versions on the node; otherwise declare a bundle that leads to the version"


class LayerUnsupported(BaseimgError):
    """A layer or a mount uses an overlay feature (redirect, metacopy) that baseimg cannot copy."""

    code = "layer-unsupported"
    hint = "the engine must mount with redirect_dir, metacopy and index off, as engines do by default"


class NotUnpacked(BaseimgError):
    """The snapshotter has not unpacked the layers of the image, so they have no directories on this node."""

    code = "image-packed"
    hint = "run a container of the image once, or pull it for the platform of this node: that unpacks its layers"


class PackedLayerAbsent(BaseimgError):
    """The engine no longer has a layer as it was packed, so nothing proves what the image holds."""

    code = "packed-layer-absent"
    hint = "set containerd's discard_unpacked_layers = false and pull the image again, or build on another machine"


class BaseNested(BaseimgError):
    """The base cannot stay exact, because a base below it is damaged or has lost its pristine content."""

    code = "base-nested"
    hint = "converge the lower base with repair: true, or roll it back to pristine; baseimg.verify names what changed"


class ImageProtected(BaseimgError):
    """An image on the base is protected, so the base must not change on this node."""

    code = "image-protected"
    hint = "remove that image from this node, rebuild it on another base, or remove its pattern from 'protect'"


class BaseHeld(BaseimgError):
    """An operator blocked this version of the base on this node."""

    code = "base-held"
    hint = "lift the hold with baseimg.unhold, or declare another version"


class ImageBreaks(BaseimgError):
    """An image or a container on the base would not start on the new content."""

    code = "image-breaks"
    hint = "rebuild these images, or accept them: 'accept' with an image pattern, an image ID or a container's name"


class ImageImpaired(BaseimgError):
    """An image or a container on the base would start, but another part of it would fail."""

    code = "image-impaired"
    hint = "see baseimg.impact; rebuild these images, or accept them with 'accept', or all with 'impaired: accept'"


class FixMissing(BaseimgError):
    """A required fix would not reach an image on the base."""

    code = "fix-missing"
    hint = "rebuild these images on the new base, or remove the name from 'require'"


class TrialFailed(BaseimgError):
    """A declared trial failed over the new content, so the content was not swapped in."""

    code = "trial-failed"
    hint = "run baseimg.trial to see the whole output; rebuild the image, or correct 'trial' in pillar"


class TrialUnavailable(BaseimgError):
    """This node cannot run trials."""

    code = "trial-unavailable"
    hint = "install runc or crun, and unshare (util-linux) 2.32 or newer; or remove 'trial' from pillar"


class NoWayBack(BaseimgError):
    """The node has no generation to roll back to."""

    code = "no-way-back"
    hint = "baseimg.status lists the generations on the node"


class LayerBusy(BaseimgError):
    """Another job holds the lock of the base."""

    code = "layer-busy"
    hint = "wait for the other job, or raise 'baseimg:lock_timeout'"


class ContentUnknown(BaseimgError):
    """The record does not know the live layer directory, so no operation may build on it."""

    code = "content-unknown"
    hint = (
        "the layer directory was replaced by hand; converge with repair: true swaps the declared version in and keeps "
        "the present content as a generation"
    )


class PristineUnproven(BaseimgError):
    """The pristine content of the base is not on this node, so no bundle and no rollback can use it."""

    code = "pristine-unproven"
    hint = (
        "pull the base again after removing every image on it, or run baseimg.adopt again with a copy of the original "
        "layer directory below backup/ (docs/operating/taking-over.md)"
    )


class PristineDamaged(BaseimgError):
    """A file of the pristine content was changed, so no bundle and no rollback can use it."""

    code = "pristine-damaged"
    hint = "remove every container and image on the base and pull it again, or copy the layer from another node"


class GenerationDamaged(BaseimgError):
    """
    A generation was changed out of band, or a new content differs from its bundle.

    No operation uses it.
    """

    code = "generation-damaged"
    hint = "baseimg.verify names the changes; declare bundles that lead to the version, or roll back to pristine"


class GenerationUnproven(BaseimgError):
    """The only start of the declared bundles is a generation that was never compared with an image."""

    code = "generation-unproven"
    hint = "declare bundles that lead from the original content to the version; baseimg.rollback still returns to it"


class LegacyAbsent(BaseimgError):
    """The shell scripts that baseimg replaces left no properties file on this node."""

    code = "legacy-absent"
    hint = "normal on a node that the scripts never updated; otherwise give the overlay_dir that they used"


class LegacyInvalid(BaseimgError):
    """A file of the shell scripts that baseimg replaces is malformed."""

    code = "legacy-invalid"


class RecordInvalid(BaseimgError):
    """The record of a base is damaged or lost."""

    code = "record-invalid"
    hint = (
        "converge with repair: true writes the record again if the engine's checksum proves the original content; "
        "otherwise restore the file, or remove the images on this base and pull them again"
    )


class RecordNewer(BaseimgError):
    """The record of a base has a newer format version. This release does not modify it."""

    code = "record-newer"
    hint = "update baseimg on this node: a newer release wrote the record"


class ContainerUnknown(BaseimgError):
    """The engine does not know the container."""

    code = "container-unknown"
    hint = "the container was removed meanwhile; run again"


class ContainerRefused(BaseimgError):
    """The engine refused to stop or start a container, or to run a command in it."""

    code = "container-refused"
    hint = "try the same with the engine's own command, and read the engine's log"


class LiveUnsupported(BaseimgError):
    """This node cannot mount single files into running containers."""

    code = "live-unsupported"
    hint = "stop and start the containers, or run a minion on the host with Linux 5.12 or newer"


class ContainerUnproven(BaseimgError):
    """The content of a running container is unknown, so the container may still run on old content."""

    code = "content-unproven"
    hint = "stop and start the container (a restart is not enough), or exclude it with 'containers: except'"


class GateFailed(BaseimgError):
    """A container failed its health gate on the new content, or with single files of it."""

    code = "gate-failed"
    hint = "read the container's log, then declare the version that works (docs/operating/containers.md)"


class RestartInterrupted(BaseimgError):
    """The restart of containers was interrupted."""

    code = "restart-interrupted"
    hint = "run the same command again: it starts the stopped containers and continues"


class SpaceExhausted(BaseimgError):
    """The file system is full."""

    code = "space-exhausted"
    hint = "free space on that file system and run again"


class DestinationUnwritable(BaseimgError):
    """A file or directory cannot be written: permissions, a read-only file system, or a missing path."""

    code = "destination-unwritable"
    hint = "give a path in an existing, writable directory; check its permissions and whether it is mounted read-only"


class SourceUnreadable(BaseimgError):
    """A file or directory cannot be read: permissions, or an unexpected file type."""

    code = "source-unreadable"
    hint = "check that this path exists and that root may read it"


class StorageFailed(BaseimgError):
    """The kernel reported an I/O error or a damaged file system."""

    code = "storage-failed"
    hint = "check the disk and its file system; the kernel's log (dmesg) has details"


class OpenFilesExhausted(BaseimgError):
    """This process reached its limit of open files."""

    code = "open-files-exhausted"
    hint = "raise LimitNOFILE of the minion's service, or ulimit -n: each level of directories needs one open file"


class LayerRemoved(BaseimgError):
    """The engine removed the layer during the operation."""

    code = "layer-removed"
    hint = "the image was removed; run again, and pull the image first if it is still needed"


class JobStale(BaseimgError):
    """A job reached the node after its deadline, or after its rollout was rolled back."""

    code = "job-stale"
    hint = "nothing was changed; 'salt-run baseimg.resume' sends a new job"
