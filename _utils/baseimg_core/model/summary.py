"""Short forms of results for people: the state of a node, an impact, a difference of two images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..display import counted, printable
from .impact.verdict import Verdict
from .store.drift import DAMAGED, INTERRUPTED, MIXED, NOT_ADOPTED, RESTARTING, drift

_LISTED = 10  # entries of a list in a summary
_NAMED = 3  # names in one line
_LINE = 300  # maximum length of a line, in characters
_RANKS = {verdict.value: verdict.rank for verdict in Verdict}
_CONTENT = {"type", "size", "content"}  # what differs between files of different contents
#: Keys of a status that people do not need.
_FOR_PROGRAMS = frozenset({"chain_id", "content", "path", "generation", "pristine_version", "pristine_kept"})
_REPAIR = "converge with repair: true"
_REMEDIES = {
    DAMAGED: _REPAIR,
    INTERRUPTED: "an operation crashed; the next converge recovers it",
    MIXED: "files of another version of a base below show through; the next converge makes the content exact again",
    NOT_ADOPTED: "salt-call baseimg.adopt",
    RESTARTING: "the next converge starts these containers and checks them; baseimg.give_up stops waiting for one",
}


def without_empty(value: Any) -> Any:
    """Return a copy of a result without keys whose value is ``None``, an empty text, list or mapping."""
    if isinstance(value, Mapping):
        kept = {key: without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, "", [], {})}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


def of_operation(result: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the result of a plan or a change for people: no empty keys, the first ten images, a line for each judgement.

    Args:
        result: The result of ``baseimg.apply``, ``converge``, ``plan`` or ``rollback`` with ``full=True``.
    """
    short = {**result, "images": _cut(result.get("images", ())), "kept": _kept(result.get("kept", ()))}
    if several := result.get("bases"):
        short["bases"] = [of_operation(own) for own in several]
    if impact := result.get("impact"):
        judged = sorted([*impact["images"], *impact["containers"]], key=lambda item: _RANKS[item["verdict"]])
        short["impact"] = {
            "verdicts": {verdict: count for verdict, count in impact["verdicts"].items() if count},
            "packages": _packages(impact["packages"] or {}),
            "config": list(impact["config"] or ()),
            "worst": _cut([_judged(_name(item), item) for item in judged]),
        }
    return dict(without_empty(short))


def _name(item: Mapping[str, Any]) -> str:
    """Return the name of an image, or of a container, that was judged."""
    return f"container {item['container']} ({item['image']})" if "container" in item else str(item["image"])


def _kept(bases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each base that is built on the changed one and stays at its version."""
    lines = []
    for base in bases:
        masked = (base.get("masked") or {}).get("paths", 0)
        lacks = f", {masked} changed paths do not reach them" if masked else ""
        lines.append(f"{base['base']} {base['version']}: {counted(len(base['images']), 'image')}{lacks}")
    return lines


def of_base(status: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the status of one base for people: no digests and paths, one line for each generation and container.

    Args:
        status: The status as :func:`ops.bases.status` returns it.
    """
    if "error" in status:
        return dict(without_empty(status))
    lines = {
        "previous": "" if (former := _former(status)) == status["version"] else former,
        "pristine": "" if status["pristine"] == "kept" else status["pristine"],
        "interrupted": status["interrupted"] or "",
        "generations": [_generation(generation) for generation in status["generations"]],
        "space": _size(status["space"]) if status["space"] else "",
        "images": _cut(status["images"]),
        "evidence": _cut([_evidence(finding) for finding in status["evidence"]]),
    }
    return dict(without_empty({key: item for key, item in {**status, **lines}.items() if key not in _FOR_PROGRAMS}))


def of_status(answer: Mapping[str, Any], statuses: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Return the answer of ``baseimg.status`` for people.

    Args:
        answer: Its keys besides ``bases``.
        statuses: The statuses as :func:`ops.bases.status` returns them.
    """
    return {**without_empty(answer), "bases": [of_base(status) for status in statuses]}


def _generation(generation: Mapping[str, Any]) -> str:
    """Return the line of a generation: version, number, state, size, users, and why the next prune keeps it."""
    kept = "" if generation["current"] or generation["kept"].startswith("in use") else generation["kept"]
    state = f"prepared {generation['prepared']}" if generation["prepared"] and not generation["activated"] else ""
    words = [
        f"live since {generation['activated']}" if generation["current"] else state,
        f"damaged: {generation['damage']}" if generation["damaged"] else "",
        "pinned" if generation["pinned"] and kept != "pinned" else "",
        "" if kept == state.partition(" ")[0] else kept,
        f"used by {_names(generation['users'])}" if generation["users"] else "",
        _size(generation["bytes"]),
    ]
    return printable(f"{generation['version']} ({generation['number']}): {', '.join(filter(None, words))}", _LINE)


def _evidence(finding: Mapping[str, Any]) -> str:
    """Return the line of a container: the version that it has mounted, and what it lacks."""
    lacks = f", lacks {_names(list(finding['missing']))}" if finding.get("missing") else ""
    verdict = f", {finding['verdict']}" if finding.get("verdict") else ""
    mounted = f"{finding['version'] or 'unknown'} ({finding['content']})"
    return printable(f"{finding['container']}: {mounted}{verdict}{lacks}, image {finding['image']}", _LINE)


def of_node(statuses: Iterable[Mapping[str, Any]], refusals: Iterable[Mapping[str, str]] = ()) -> list[str]:
    """
    Return the state of a node: one line for each base, and one for each image or container that needs an operator.

    Args:
        statuses: Bases as :func:`ops.status.survey` returns them.
        refusals: The refused versions as :func:`ops.refusals.standing` returns them.

    Returns:
        The lines; those that need an operator are indented below their base.
    """
    lines = []
    refused = {each["base"]: f"refused  {each['version']}: [{each['code']}] {each['message']}" for each in refusals}
    for status in statuses:
        lines.append(_base(status))
        attention = [*_attention(status), *filter(None, [refused.pop(status["base"], "")])]
        lines += [f"  {printable(line, _LINE)}" for line in attention]
    lines += [printable(f"{base}  {line}", _LINE) for base, line in refused.items()]
    return lines or ["no base: no record on this node, and pillar declares no base that is here"]


def _base(status: Mapping[str, Any]) -> str:
    """Return the line of a base: reference, version, former version, images, and what is unusual."""
    name = status["base"] or status["path"]
    if "error" in status:
        return printable(f"{name}  [{status['error']['code']}] {status['error']['message']}", _LINE)
    version, images = status["version"], status["images"]
    former = _former(status)
    cells = [name, version, f"(was {former})" if former not in ("", version) else "", _images(images)]
    if status.get("declared") not in (None, version):
        cells.append(f"declared: {status['declared']}")
    prepared = [
        item["version"]
        for item in status["generations"]
        if item.get("prepared") and not item.get("activated") and not item.get("damaged")
        if item["version"] != version
    ]
    cells += [f"prepared: {', '.join(prepared)}"] if prepared else []
    cells += [
        f"{content}: {_names(status['containers'][content])}"
        for content in ("outdated", "unknown")
        if status["containers"][content]
    ]
    cells += [drift(status), "running" if status["running"] else "", "held" if status["holds"] else ""]
    return printable("  ".join(cell for cell in cells if cell), _LINE)


def _former(status: Mapping[str, Any]) -> str:
    """Return the version that was live before; empty if it is unknown."""
    others = [item for item in status["generations"] if not item["current"]]
    for item in others:
        if item["number"] == status["previous"]:
            return str(item["version"])
    # after a rollback the record has no way back but the live generation
    left = [item for item in others if item["activated"] and item["version"] != status["version"]]
    return str(max(left, key=lambda item: item["activated"])["version"]) if left else ""


def _images(images: Sequence[str]) -> str:
    """Return the number of images; those without a name are one group."""
    named = sum(not _is_nameless(image) for image in images)
    text = counted(named, "image")
    return text if named == len(images) else f"{text}, {len(images) - named} without a name"


def _is_nameless(image: str) -> bool:
    """Return True for the ID of an image: it has no tag (``docker images`` shows it as dangling)."""
    return image.startswith("sha256:")


def _attention(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each image, container or hold of a base that needs an operator, the most severe first."""
    if "error" in status:
        yield status["error"]["hint"]
        return
    if status["running"]:
        yield f"running  {status['running']}"
    if reason := drift(status):
        yield f"{reason}: {_REMEDIES.get(reason) or 'salt-call baseimg.verify ' + status['base']}"
    for finding in sorted(status["judged"], key=lambda finding: _RANKS[finding["verdict"]]):
        yield f"{finding['verdict']}  {finding['image']}: {finding['subject']} {finding['text']}; {finding['remedy']}"
    for item in status["evidence"]:
        if item["content"] == "current" and item["missing"]:
            reason = next((each for each in item["reasons"] if each["subject"] in item["missing"]), item["reasons"][0])
            text = f"{reason['subject']} {reason['text']}; {reason['remedy']}"
            yield f"{item['verdict']}  {item['container']}: {text}"
    yield from _restarting(status)
    for name in status["containers"]["outdated"]:
        files = status.get("live", {}).get(name, {})
        files_text = f"; in effect live: {_names(list(files))}" if files else ""
        yield f"outdated  {name}: stop and start it (docker restart is not enough){files_text}"
    for name in status["containers"]["unknown"]:
        yield f"unknown  {name}: its content is unknown; stop and start it to be sure"
    for hold in status["holds"]:
        until = f", until {hold['until']}" if hold["until"] else ""
        yield f"held  {hold['version']} by {hold['by']}{until}: {hold['reason']}"


def _restarting(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each container that a restart stopped and that has not passed its gate since."""
    runs = {name for names in status["containers"].values() for name in names}
    for name in status["restarting"]:
        if name in runs:
            yield f"waiting  {name}: it runs, but has not passed its gate since its restart"
        else:
            yield f"stopped  {name}: a restart stopped it, and it does not run"


def of_rollback(result: Mapping[str, Any], version: str | None, declared: str | None) -> dict[str, Any]:
    """
    Add a note about the next step to the result of a rollback.

    Args:
        result: The result of the rollback.
        version: The version that the caller named; ``None`` without one.
        declared: The version that pillar declares for the base; ``None`` without one.

    Returns:
        The result, with ``note`` if there is one.
    """
    notes = []
    if not result["changed"] and version is None:
        notes.append(f"the last change was a rollback to {result['to']} already; to= selects another version")
    held = {hold["version"] for hold in result["holds"]}
    if declared not in (None, result["to"]):
        blocked = "the hold blocks it until baseimg.unhold"
        again = "the next state.apply applies it again; baseimg.hold blocks it"
        notes.append(f"pillar still declares {declared}: {blocked if declared in held else again}")
    return {**result, "note": "; ".join(notes)} if notes else dict(result)


def of_impact(result: Mapping[str, Any]) -> dict[str, Any]:
    """
    Summarise the result of ``baseimg.impact``.

    Returns:
        ``format``, ``base``, ``version``, ``to``; the numbers of ``images``, of ``containers`` by content, of
        ``verdicts``, ``changes`` and ``packages`` (all that are removed, the first with security fixes); the names in
        ``config``; the bases that are ``kept``; and ``worst``,
        ten lines, worst first.
    """
    images = result["images"]
    contents = Counter(container["content"] for container in result["containers"])
    named = {key: result[key] for key in ("format", "base", "version", "to", "changes")}
    return {
        **named,
        "images": len(images),
        "containers": {"stopped" if content == "none" else content: count for content, count in contents.items()},
        "verdicts": {verdict: count for verdict, count in result["verdicts"].items() if count},
        "packages": _packages(result["packages"] or {}),
        "config": list(result["config"] or ()),
        "kept": _kept(result["kept"]),
        "worst": _cut(_worst(images, result["containers"])),
    }


def _packages(packages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of packages, all that are removed, and the first with security fixes; or why none is known."""
    if packages.get("unknown"):
        return {"unknown": packages["unknown"]}
    counts: dict[str, Any] = {word: len(packages[word]) for word in ("changed", "added") if packages.get(word)}
    if packages.get("removed"):
        counts["removed"] = [f"{name} {version}" for name, version in packages["removed"].items()]
    if packages.get("fixes"):
        counts["fixes"] = _cut([_fix(name, packages) for name in packages["fixes"]])
    return counts


def _fix(name: str, packages: Mapping[str, Any]) -> str:
    """Return a line about a package with security fixes: old and new version, and advisories."""
    old, new = packages["changed"].get(name, ("", packages["added"].get(name, "")))  # a path has no version
    versions = f" {old} -> {new}" if old else f" {new}" if new else ""
    return printable(f"{name}{versions}: {_names(packages['fixes'][name])}", _LINE)


def _worst(images: Sequence[Mapping[str, Any]], containers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each image and container that does not get all of the change, worst first."""
    of_image = {image["id"]: image.get("verdict", "") for image in images}
    ranked: list[tuple[int, str]] = []
    nameless: Counter[str] = Counter()
    for image in images:
        if image.get("verdict") not in (None, Verdict.EFFECTIVE.value):
            if image["tags"]:
                ranked.append((_RANKS[image["verdict"]], _judged(image["image"], image)))
            else:
                nameless[image["verdict"]] += 1
    for container in containers:
        if "verdict" in container and _RANKS[container["verdict"]] < _RANKS.get(
            of_image.get(container["image_id"], ""), len(_RANKS)
        ):
            name = f"container {container['name']} ({container['image'] or 'its image was removed'})"
            ranked.append((_RANKS[container["verdict"]], _judged(name, container)))
    for verdict, count in nameless.items():
        ranked.append((_RANKS[verdict], f"{verdict}  {counted(count, 'image')} without a name"))
    return [line for _rank, line in sorted(ranked, key=lambda item: item[0])]


def _judged(name: str, item: Mapping[str, Any]) -> str:
    """Return the line of an image or a container: its first reason, or how much its own files override."""
    if item["reasons"]:
        reason = item["reasons"][0]
        return printable(f"{item['verdict']}  {name}: {reason['subject']} {reason['text']}; {reason['remedy']}", _LINE)
    counts = [f"{covered} of {changed} {word}" for word, (covered, changed) in item["covered"].items()]
    first = [f"{path['path']}: {path['reason']}" for path in item["shadowed"][:1]]
    details = "; ".join([*filter(None, [", ".join(counts)]), *first, *item["warnings"]])
    return printable(f"{item['verdict']}  {name}" + (f": {details}" if details else ""), _LINE)


def of_diff(result: Mapping[str, Any]) -> dict[str, Any]:
    """
    Summarise the result of ``baseimg.diff``.

    Returns:
        ``source``, ``target``, ``platform``, ``counts``, ``bytes`` (of all files whose content was added or modified),
        ``biggest`` (ten lines), and ``config``.
    """
    files = [(word, item) for word in ("added", "modified") for item in result[word] if "size" in item]
    sized = [(item["size"], word, item) for word, item in files if _CONTENT.intersection(item.get("differs", _CONTENT))]
    sized.sort(key=lambda entry: -entry[0])
    lines = [f"{_size(size)}  {word}  {item['path']}" for size, word, item in sized]
    named = {key: result[key] for key in ("source", "target", "platform", "counts", "config")}
    return {**named, "bytes": sum(size for size, _word, _item in sized), "biggest": _cut(lines)}


def _size(count: int) -> str:
    """Return bytes in a readable unit (powers of 1000)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _cut(lines: Sequence[str]) -> list[str]:
    """Return the first lines of a list; the last says how many are left out."""
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], f"and {more} more: see full=True"] if more > 0 else list(lines)


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
