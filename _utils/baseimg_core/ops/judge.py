"""Judge images for a bundle without a node: images in archives, registries, or the engine of this machine."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..disk.bundle.reader import Bundle
from ..disk.impact.layer_scan import expected_paths
from ..disk.impact.layers import PackedLayers
from ..disk.impact.view import BaseAfterBundles, BaseOnDisk, NewFile
from ..disk.stack.packed import PackedStack
from ..display import counted
from ..engine.base import Image
from ..engine.images.store import ImageSources
from ..errors import ArgumentInvalid, BaseimgError
from ..model.impact import overrides
from ..model.impact.overrides import ExpectedPaths
from ..model.impact.verdict import Reason, Verdict
from ..model.stack.packed import PackedLayer
from ..progress import Progress
from .build import image_with_layers, pristine_directories
from .judgement import Judgement
from .verdicts import PATHS, Changes, ImageJudge

#: Exit codes by verdict, for pipelines.
EXIT_CODES = {
    Verdict.BREAKS: 1,
    Verdict.IMPAIRED: 4,
    Verdict.NOT_CHECKED: 2,
    Verdict.BLOCKED: 3,
    Verdict.PARTLY: 3,
    Verdict.EFFECTIVE: 0,
}
FORMAT = 1


@dataclass(frozen=True, slots=True)
class _Judged:
    #: The image, as given.
    name: str
    #: Its verdict and reasons.
    judgement: Judgement


def judge(
    store: ImageSources,
    path: str,
    names: Sequence[str],
    accept: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """
    Judge which images a bundle breaks, and which ones get its changes.

    Args:
        store: Opens the images.
        path: The bundle.
        names: The images. If the base itself is one of them, it provides the inherited configuration.
        accept: Patterns of images whose verdict does not count in ``retcode``.
        progress: Called with the step "judging", the images done and the total.

    Returns:
        ``format``, ``bundle``, ``hash``, ``source``, ``target``, ``verdicts`` (counts), ``images`` (worst first, each
        with its ``verdict``, ``reasons``, and ``accepted``), ``retcode``. An image that cannot be read, or that is not
        on the base, is ``not-checked``.

    Raises:
        ArgumentInvalid: No image is given.
        BundleInvalid: The bundle is malformed.
    """
    if not names:
        raise ArgumentInvalid("no image is given", "name the images, or a file with one name a line")
    with Bundle.open(path) as bundle:
        session = _Session(store, bundle, tuple(dict.fromkeys(names)))
        judged = []
        for number, name in enumerate(session.names):
            if progress:
                progress("judging", number, len(session.names))
            judged.append(_Judged(name, session.judge(name)))
            session.release(name)
        manifest = bundle.manifest
        return {
            "format": FORMAT,
            "bundle": path,
            "hash": bundle.digest,
            "source": manifest.source.reference,
            "target": manifest.target.reference,
            "version": manifest.target.version,
            **_summary(judged, accept),
        }


def _summary(judged: Sequence[_Judged], accept: Sequence[str]) -> dict[str, Any]:
    counts = {verdict.value: 0 for verdict in Verdict}
    images = []
    remaining = {Verdict.EFFECTIVE}
    for item in sorted(judged, key=lambda judged_image: (judged_image.judgement.verdict.rank, judged_image.name)):
        verdict = item.judgement.verdict
        accepted = verdict is not Verdict.EFFECTIVE and any(fnmatch.fnmatchcase(item.name, text) for text in accept)
        counts[verdict.value] += 1
        images.append({"image": item.name, **item.judgement.as_dict(PATHS), "accepted": accepted})
        if not accepted:
            remaining.add(verdict)
    worst = min(remaining, key=lambda verdict: verdict.rank)
    return {"verdicts": counts, "images": images, "retcode": EXIT_CODES[worst]}


class _Session:
    """The judge of one bundle. The lower layers of the first readable image are the layers of the base."""

    def __init__(self, store: ImageSources, bundle: Bundle, names: Sequence[str]) -> None:
        self.names = names
        self._store, self._bundle = store, bundle
        self._base = bundle.manifest.source
        self._packed: dict[str, PackedLayer] = {}
        self._layers = PackedLayers(self._packed)
        self._judge: ImageJudge | None = None
        self._base_config: Mapping[str, Any] = {}
        self._images: dict[str, Image] = {}
        self._failures: dict[str, BaseimgError] = {}
        for name in names:
            self._open(name)
        self._pending = Counter(chain_id for name in names for chain_id in self._spooled(name))

    def _open(self, name: str) -> None:
        try:
            image = self._images[name] = image_with_layers(self._store, name)
        except BaseimgError as exc:
            self._failures[name] = exc
            return
        if image.chain_id == self._base.chain_id:
            self._base_config = image.config

    def _is_on_base(self, image: Image) -> bool:
        return image.diff_ids[: len(self._base.diff_ids)] == self._base.diff_ids

    def _spooled(self, name: str) -> list[str]:
        """Return the chain IDs of the layers above the base that the spool has for an image."""
        image = self._images.get(name)
        if image is None or image.unpacked or not self._is_on_base(image):
            return []
        return image.chain_ids[len(self._base.diff_ids) :]

    def release(self, name: str) -> None:
        """Delete the contents of an image's own layers that no other image in the list has."""
        for chain_id in self._spooled(name):
            self._pending[chain_id] -= 1
            if not self._pending[chain_id]:
                self._store.release(chain_id)

    def judge(self, name: str) -> Judgement:
        """Judge one image; errors become ``not-checked``."""
        if name in self._failures:
            return _unread(name, self._failures[name])
        image = self._images[name]
        if not self._is_on_base(image):
            return _not_checked(name, f"is not built on {self._base.reference} ({self._base.chain_id})")
        try:
            self._read(image)
            if self._judge is None:
                self._judge = self._of_base(image)
            return self._judge.image(image)
        except BaseimgError as exc:
            return _unread(name, exc)

    def _read(self, image: Image) -> None:
        """Read the layers of an image as packed. Layers of an engine are already on disk."""
        if image.unpacked:
            return
        for directory, chain_id, diff_id in zip(image.directories, image.chain_ids, image.diff_ids, strict=True):
            if directory not in self._packed:
                layer = self._store.packed_layer(chain_id, diff_id)
                assert layer is not None  # an archive and a registry have every layer
                self._packed[directory] = layer

    def _of_base(self, image: Image) -> ImageJudge:
        """Return the judge of images on the base. The lower layers of ``image`` are the layers of the base."""
        height = len(self._base.diff_ids)
        directories = pristine_directories(self._store, image) if image.unpacked else image.directories
        roots = list(reversed(directories[:height]))
        pristine = PackedStack({root: self._packed.get(root) for root in roots}, self._store.owners)
        files: dict[bytes, NewFile] = {}
        expected = ExpectedPaths(overrides.combine([expected_paths(self._bundle, None, pristine, files)]))
        manifest = self._bundle.manifest
        new = BaseAfterBundles(BaseOnDisk(pristine, self._layers), expected, files)
        changes = Changes(manifest.target.version, pristine, expected, new, manifest.packages, manifest.config)
        return ImageJudge(changes, pristine, height, self._base_config, [], layers=self._layers)


def _unread(name: str, error: BaseimgError) -> Judgement:
    return _not_checked(name, f"cannot be read: [{error.code}] {error.message}")


def _not_checked(name: str, text: str) -> Judgement:
    reason = Reason(Verdict.NOT_CHECKED, "unreadable", name, text)
    return Judgement(Verdict.NOT_CHECKED, [reason], {}, [], [])


def lines(result: Mapping[str, Any], limit: int = 10) -> Iterator[str]:
    """Yield the result for people: one line of counts, then at most ``limit`` images that are not effective."""
    counts = result["verdicts"]
    total = sum(counts.values())
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    yield f"{result['source']} -> {result['target']}: {counted(total, 'image')}, {listed}"
    rest = [image for image in result["images"] if image["verdict"] != Verdict.EFFECTIVE.value]
    for image in rest[:limit]:
        reason = next(iter(image["reasons"]), None)
        why = f": {reason['subject']} {reason['text']}" if reason else ""
        yield f"{image['verdict']}{' (accepted)' if image['accepted'] else ''}  {image['image']}{why}"
    if len(rest) > limit:
        yield f"and {len(rest) - limit} more; --json has all"
