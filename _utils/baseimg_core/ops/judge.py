"""Judge images for a bundle without a node: images in archives, registries, or the engine of this machine."""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Lock
from typing import Any

from .. import __version__
from ..disk.bundle.reader import Bundle
from ..disk.impact.layer_scan import expected_paths
from ..disk.impact.layers import PackedLayers
from ..disk.impact.results import Results
from ..disk.impact.view import BaseAfterBundles, BaseOnDisk, NewFile
from ..disk.stack.packed import PackedStack
from ..display import counted
from ..engine.base import Image
from ..engine.images.store import ImageSources
from ..errors import ArgumentInvalid, BaseimgError
from ..linux.concurrency import submit
from ..model.impact import overrides
from ..model.impact.image_judgement import ImageJudgement
from ..model.impact.overrides import ExpectedPaths
from ..model.impact.verdict import Reason, Verdict
from ..model.stack.packed import PackedLayer
from ..progress import Progress
from .build import image_with_layers, pristine_directories
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
_AT_ONCE = 4  # images that are read at the same time


@dataclass(frozen=True, slots=True)
class _Judged:
    #: The image, as given.
    name: str
    #: Its verdict.
    verdict: Verdict
    #: The judgement as plain data.
    judgement: dict[str, Any]


def judge(
    store: ImageSources,
    path: str,
    names: Sequence[str],
    accept: Sequence[str] = (),
    progress: Progress | None = None,
    results: str | None = None,
) -> dict[str, Any]:
    """
    Judge which images a bundle breaks, and which ones get its changes. Four images are read at a time.

    Args:
        store: Opens the images.
        path: The bundle.
        names: The images. If the base itself is one of them, it provides the inherited configuration.
        accept: Patterns of images whose verdict does not count in ``retcode``.
        progress: Called with the step "judging", the images done and the total.
        results: The directory that keeps results, so that an image is not read again; ``None`` to keep none.

    Returns:
        ``format``, ``time`` (UTC), ``bundle``, ``hash``, ``source``, ``target``, ``version``, ``verdicts`` (counts),
        ``images`` (worst first, each with its ``verdict``, ``reasons``, and ``accepted``), ``retcode``. An image that
        cannot be read, or that is not on the base, is ``not-checked``.

    Raises:
        ArgumentInvalid: No image is given.
        BundleInvalid: The bundle is malformed.
    """
    if not names:
        raise ArgumentInvalid("no image is given", "name the images, or a file with one name a line")
    with Bundle.open(path) as bundle:
        session = _Session(store, bundle, Results.open(results) if results else None)
        judged = session.judge_all(tuple(dict.fromkeys(names)), progress)
        manifest = bundle.manifest
        return {
            "format": FORMAT,
            "time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
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
    for item in sorted(judged, key=lambda judged_image: (judged_image.verdict.rank, judged_image.name)):
        verdict = item.verdict
        accepted = verdict is not Verdict.EFFECTIVE and any(fnmatch.fnmatchcase(item.name, text) for text in accept)
        counts[verdict.value] += 1
        images.append({"image": item.name, **item.judgement, "accepted": accepted})
        if not accepted:
            remaining.add(verdict)
    worst = min(remaining, key=lambda verdict: verdict.rank)
    return {"verdicts": counts, "images": images, "retcode": EXIT_CODES[worst]}


class _Session:
    """
    The judge of one bundle. Threads fetch and read images. The rules share their caches, so they run one at a time.

    The lower layers of the first readable image are the layers of the base.
    """

    def __init__(self, store: ImageSources, bundle: Bundle, results: Results | None) -> None:
        self._store, self._bundle = store, bundle
        self._base = bundle.manifest.source
        self._results = results
        self._packed: dict[str, PackedLayer] = {}
        self._layers = PackedLayers(self._packed)
        self._judge: ImageJudge | None = None
        self._base_config: Mapping[str, Any] = {}
        self._images: dict[str, Image] = {}
        self._failures: dict[str, BaseimgError] = {}
        #: By directory of a layer in the spool: how many images still need it.
        self._pending: Counter[str] = Counter()
        self._lock = Lock()

    def judge_all(self, names: Sequence[str], progress: Progress | None) -> list[_Judged]:
        """Judge images, several at a time; ``progress`` is called with the step "judging" and the images done."""
        judged: list[_Judged] = []
        with ThreadPoolExecutor(_AT_ONCE, "judge") as pool:
            try:
                for opened in [submit(pool, self._open, name) for name in names]:
                    opened.result()
                for name in names:
                    if name in self._images and self._images[name].chain_id == self._base.chain_id:
                        self._base_config = self._images[name].config
                    self._pending.update(self._spooled(name))
                for future in as_completed([submit(pool, self._judged, name) for name in names]):
                    judged.append(future.result())
                    if progress:
                        progress("judging", len(judged), len(names))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if self._results:
            self._results.prune()
        return judged

    def _open(self, name: str) -> None:
        try:
            self._images[name] = image_with_layers(self._store, name)
        except BaseimgError as exc:
            self._failures[name] = exc

    def _is_on_base(self, image: Image) -> bool:
        return image.diff_ids[: len(self._base.diff_ids)] == self._base.diff_ids

    def _spooled(self, name: str) -> list[str]:
        """Return the directories of the layers above the base that the spool has for an image."""
        image = self._images.get(name)
        if image is None or image.unpacked or not self._is_on_base(image):
            return []
        return list(image.directories[len(self._base.diff_ids) :])

    def _judged(self, name: str) -> _Judged:
        image = self._images.get(name)
        key = self._key(image) if image and self._is_on_base(image) else ""
        if self._results and key and (known := self._results.read(key)):
            judged = _Judged(name, *known)
        else:
            judgement = self._judgement(name, image)
            judged = _Judged(name, judgement.verdict, judgement.as_dict(PATHS))
            if self._results and key and judged.verdict is not Verdict.NOT_CHECKED:
                self._results.write(key, judged.judgement)
        self._release(name)
        return judged

    def _key(self, image: Image) -> str:
        """Return a digest of everything that decides the verdict about an image."""
        own = image.diff_ids[len(self._base.diff_ids) :]
        parts = [FORMAT, __version__, self._bundle.digest, own, image.config, self._base_config]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _release(self, name: str) -> None:
        """Delete the contents of an image's own layers that no other image in the list needs."""
        with self._lock:
            self._pending.subtract(self._spooled(name))
            unneeded = [directory for directory in self._spooled(name) if not self._pending[directory]]
            for directory in unneeded:
                self._packed.pop(directory, None)
        for directory in unneeded:
            self._store.release(directory)

    def _judgement(self, name: str, image: Image | None) -> ImageJudgement:
        """Judge one image; errors become ``not-checked``."""
        if image is None:
            return _unread(name, self._failures[name])
        if not self._is_on_base(image):
            return _not_checked(name, f"is not built on {self._base.reference} ({self._base.chain_id})")
        try:
            packed = self._read(image)
            with self._lock:
                self._packed.update(packed)
                if self._judge is None:
                    self._judge = self._of_base(image)
                return self._judge.image(image)
        except BaseimgError as exc:
            return _unread(name, exc)

    def _read(self, image: Image) -> dict[str, PackedLayer]:
        """Read the layers of an image as packed, by directory; those of an engine's image are on disk."""
        packed: dict[str, PackedLayer] = {}
        if image.unpacked:
            return packed
        for directory, chain_id, diff_id in zip(image.directories, image.chain_ids, image.diff_ids, strict=True):
            layer = self._store.packed_layer(chain_id, diff_id)
            assert layer is not None  # an archive and a registry have every layer
            packed[directory] = layer
        return packed

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


def _unread(name: str, error: BaseimgError) -> ImageJudgement:
    return _not_checked(name, f"cannot be read: [{error.code}] {error.message}")


def _not_checked(name: str, text: str) -> ImageJudgement:
    reason = Reason(Verdict.NOT_CHECKED, "unreadable", name, text)
    return ImageJudgement(Verdict.NOT_CHECKED, [reason], {}, [], [])


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
