"""
Tell the master when a base is not as it should be.

.. code-block:: yaml

    beacons:
      baseimg:
        - interval: 300             # seconds between two looks; each asks the engine, as baseimg.status does
        - outdated_after: 86400     # seconds that containers may go on with an older content
        - repeat: 86400             # seconds after which what is still true is told again
        - disable_during_state_run: true

Events ``salt/beacon/<minion>/baseimg/<what>``, each with ``base`` and ``version`` (what it shows) but the last:

``drift``
    The content or its record is not as it was made. ``reason``: ``damaged``, ``interrupted`` (seen twice, so nobody is
    at it), ``not adopted``, or an error's code, then with ``message``.
``arrived``
    Images have come to a base that does not show the ``declared`` version: ``images``. A changed pillar alone is no
    arrival.
``containers``
    Containers still run on an older content, ``since`` the present one was activated: ``containers``.
``error``
    The node cannot be looked at: ``code``, ``message``, ``hint``.

What was told is kept in the minion's cache directory, because Salt makes a new beacon at each refresh of its grains,
pillar or modules.
"""

import datetime
import json
import os
import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "baseimg"

_DEFAULTS = {"outdated_after": 86400, "repeat": 86400}
_SALTS = {"interval", "disable_during_state_run"}  # Salt drops the item that holds one of these, with all that is in it


def __virtual__():
    if "baseimg.status" in __salt__:
        return __virtualname__
    return False, "the execution module baseimg is not available"


def validate(config):
    """Check the beacon's configuration."""
    if not isinstance(config, list) or not all(isinstance(one, dict) for one in config):
        return False, "Configuration for baseimg beacon must be a list of mappings."
    given = {key: value for one in config for key, value in one.items()}
    for key in _DEFAULTS:
        value = given.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            return False, f"Configuration for baseimg beacon: {key} is {value!r}, expected seconds, 0 or more."
        if any(key in one and _SALTS & one.keys() for one in config):
            return False, f"Configuration for baseimg beacon: {key} must be an item of its own."
    return True, "Valid beacon configuration"


def beacon(config):
    """Look at every base, and return what was not told yet, or long ago."""
    options = {**_DEFAULTS, **{key: value for one in config for key, value in one.items()}}
    now, memory = time.time(), _remembered()
    told, events = {}, []
    for tag, patient, identity, more in _facts(options, memory, now):
        key = json.dumps([tag, identity], sort_keys=True)
        last = memory["told"].get(key, -1)
        if (last < 0 and not patient) or (last >= 0 and now - last >= options["repeat"]):
            events.append({"tag": tag, **identity, **more})
            last = now
        told[key] = max(last, 0)  # a patient fact is due when it is seen again
    _remember({**memory, "told": told})
    return events


def _facts(options, memory, now):
    """What is true: its tag, whether it counts only when seen twice, what makes it this fact, and what else is told."""
    try:
        bases = __salt__["baseimg.status"](declared=True)["bases"]
    except CommandExecutionError as exc:
        info = exc.info if isinstance(exc.info, dict) else {"code": "", "message": str(exc), "hint": ""}
        yield "error", False, {"code": info["code"]}, {"message": info["message"], "hint": info["hint"]}
        return
    memory["images"], before = {}, memory["images"]
    for base in bases:
        named = {"base": base["base"] or base["path"], "version": base.get("version", "unknown")}
        reason, more = _drift(base)
        if reason:
            yield "drift", reason == "interrupted", {**named, "reason": reason}, more
        if "error" in base:
            continue
        arrived = _arrived(base, before.get(base["path"], {}), memory["images"])
        if arrived:
            yield "arrived", False, {**named, "declared": base["declared"], "images": arrived}, {}
        since = next(one["activated"] for one in base["generations"] if one["current"])
        outdated = base["containers"]["outdated"]
        if outdated and now - _seconds(since) >= options["outdated_after"]:
            yield "containers", False, {**named, "containers": outdated, "since": since}, {}


def _drift(base):
    if "error" in base:
        return base["error"]["code"], {"message": base["error"]["message"]}
    if any(one["current"] and one["damaged"] for one in base["generations"]):
        return "damaged", {}
    return ("not adopted" if base["legacy"] else "interrupted" if base["interrupted"] else ""), {}


def _arrived(base, before, images):
    """The images that came while the base was outdated, and remember all. ``before`` is of the same layer directory."""
    known, waiting = before.get("known", []), before.get("waiting", [])
    outdated = base["declared"] not in (None, base["version"])
    arrived = [image for image in base["images"] if outdated and (image in waiting or image not in known)]
    images[base["path"]] = {"known": base["images"], "waiting": arrived}
    return arrived


def _seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _file():
    return os.path.join(__opts__["cachedir"], "baseimg-beacon.json")


def _remembered():
    """What was told, by when, and which images were seen. Without it everything is told once more."""
    try:
        with open(_file(), encoding="utf-8") as file:
            memory = json.load(file)
        return {"told": dict(memory["told"]), "images": dict(memory["images"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {"told": {}, "images": {}}


def _remember(memory):
    with open(_file() + ".new", "w", encoding="utf-8") as file:
        json.dump(memory, file)
    os.replace(_file() + ".new", _file())
