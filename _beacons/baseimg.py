"""
Report drift, new images, outdated containers and refused versions of bases to the master.

.. code-block:: yaml

    beacons:
      baseimg:
        - interval: 300             # seconds between two checks; each runs baseimg.status, which queries the engine
        - outdated_after: 86400     # seconds for which containers may run on older content
        - repeat: 86400             # seconds after which an unchanged fact is reported again
        - disable_during_state_run: true

The events are ``salt/beacon/<minion>/baseimg/<event>``. All except ``error`` have ``base`` and ``version`` (live):

``drift``
    The content or its record differs from what baseimg wrote. ``reason``: ``damaged``, ``pristine damaged``,
    ``pristine missing``, ``mixed``, ``interrupted`` (in two checks in a row, so no operation is running),
    ``restart unfinished`` (the same; with the ``containers`` that a restart stopped and that have not passed their
    gate), ``not adopted``, or an error's code, with its ``message``.
``arrived``
    New ``images`` are on a base whose live version is not the ``declared`` version. A change of pillar alone does not
    cause this event.
``containers``
    ``containers`` have run on older content for ``outdated_after`` seconds or more. ``since``: when the live content
    was activated.
``refused``
    The node refused to prepare or to converge to the version ``refused``: ``code``, ``message``.
``error``
    The check failed: ``code``, ``message``, ``hint``.

The minion's cache directory keeps the reported facts, because Salt creates a new beacon at each refresh of grains,
pillar or modules.
"""

import datetime
import json
import os
import time

import salt.utils.atomicfile
from salt.exceptions import CommandExecutionError

__virtualname__ = "baseimg"

_DEFAULTS = {"outdated_after": 86400, "repeat": 86400}
_PASSING = ("interrupted", "restart unfinished")  # normal while an operation is running
_OF_SALT = {"interval", "disable_during_state_run"}  # Salt drops a whole list item that contains one of these


def __virtual__():
    if "baseimg.status" in __salt__:
        return __virtualname__
    return False, "the execution module baseimg is not available"


def validate(config):
    """Validate the beacon's configuration; return (valid, message)."""
    if not isinstance(config, list) or not all(isinstance(item, dict) for item in config):
        return False, "Configuration for baseimg beacon must be a list of mappings."
    options = {key: value for item in config for key, value in item.items()}
    for key in _DEFAULTS:
        value = options.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            return False, f"Configuration for baseimg beacon: {key} is {value!r}, expected seconds, 0 or more."
        if any(key in item and _OF_SALT & item.keys() for item in config):
            return False, f"Configuration for baseimg beacon: {key} must be a separate list item."
    return True, "Valid beacon configuration"


def beacon(config):
    """Check every base; return facts that are new, or last reported ``repeat`` seconds ago."""
    options = {**_DEFAULTS, **{key: value for item in config for key, value in item.items()}}
    now, memory = time.time(), _load_memory()
    reported, events = {}, []
    for tag, needs_two_checks, identity, details in _facts(options, memory, now):
        key = json.dumps([tag, identity], sort_keys=True)
        last = memory["told"].get(key, -1)
        if (last < 0 and not needs_two_checks) or (last >= 0 and now - last >= options["repeat"]):
            events.append({"tag": tag, **identity, **details})
            last = now
        reported[key] = max(last, 0)  # a fact that needs two checks is reported by the second
    _save_memory({**memory, "told": reported})
    return events


def _facts(options, memory, now):
    """Yield facts as (tag, True if it needs two checks in a row, identifying fields, other fields)."""
    try:
        answer = __salt__["baseimg.status"](declared=True, full=True)
    except CommandExecutionError as exc:
        info = exc.info if isinstance(exc.info, dict) else {"code": "", "message": str(exc), "hint": ""}
        yield "error", False, {"code": info["code"]}, {"message": info["message"], "hint": info["hint"]}
        return
    memory["images"], before = {}, memory["images"]
    live = {base["base"]: base.get("version", "unknown") for base in answer["bases"]}
    for refusal in answer["refused"]:
        named = {"base": refusal["base"], "version": live.get(refusal["base"], "unknown")}
        identity = {**named, "refused": refusal["version"], "code": refusal["code"]}
        yield "refused", False, identity, {"message": refusal["message"]}
    for base in answer["bases"]:
        named = {"base": base["base"] or base["path"], "version": base.get("version", "unknown")}
        reason, details = _drift(base)
        if reason:
            yield "drift", reason in _PASSING, {**named, "reason": reason}, details
        if "error" in base:
            continue
        arrived = _arrived(base, before.get(base["path"], {}), memory["images"])
        if arrived:
            yield "arrived", False, {**named, "declared": base["declared"], "images": arrived}, {}
        since = next(generation["activated"] for generation in base["generations"] if generation["current"])
        outdated = base["containers"]["outdated"]
        if outdated and now - _seconds(since) >= options["outdated_after"]:
            yield "containers", False, {**named, "containers": outdated, "since": since}, {}


def _drift(base):
    """Return a base's drift, equal to the core's (model.store.drift), and the error's message if any."""
    if "error" in base:
        return base["error"]["code"], {"message": base["error"]["message"]}
    if any(generation["current"] and generation["damaged"] for generation in base["generations"]):
        return "damaged", {}
    if base.get("pristine") in ("damaged", "missing"):
        return f"pristine {base['pristine']}", {}
    if base.get("mixed") or base.get("unmasked"):
        return "mixed", {}
    if base["legacy"]:
        return "not adopted", {}
    if base["restarting"] and not base.get("running"):
        return "restart unfinished", {"containers": base["restarting"]}
    return ("interrupted" if base["interrupted"] else ""), {}


def _arrived(base, before, images):
    """Return images that arrived while the base was outdated; store the layer's images in ``images``."""
    known, waiting = before.get("known", []), before.get("waiting", [])
    outdated = base["declared"] not in (None, base["version"])
    arrived = [image for image in base["images"] if outdated and (image in waiting or image not in known)]
    images[base["path"]] = {"known": base["images"], "waiting": arrived}
    return arrived


def _seconds(text):
    """Convert a time (ISO 8601) to seconds since the epoch."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _path():
    return os.path.join(__opts__["cachedir"], "baseimg-beacon.json")


def _load_memory():
    """Load reported facts with their times, and known images; empty if the file is missing or broken."""
    try:
        with open(_path(), encoding="utf-8") as file:
            memory = json.load(file)
        return {"told": dict(memory["told"]), "images": dict(memory["images"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {"told": {}, "images": {}}


def _save_memory(memory):
    """Replace the file atomically."""
    with salt.utils.atomicfile.atomic_open(_path(), "w") as file:
        json.dump(memory, file)
