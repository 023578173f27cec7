"""
The live version of each base on this node, as a grain for targeting.

.. code-block:: yaml

    baseimg:
      bases:
        corp/base:12.0: {version: '12.1', generation: 1, drift: damaged}
      versions: ['corp/base:12.0=12.1']
      drifted: ['corp/base:12.0']        # absent if empty, because * matches an empty list
      held: ['corp/base:12.0']           # bases with a hold; absent if empty
      refused: ['corp/base:12.0=12.1 space-exhausted']    # versions that this node refused; absent if empty
      unreadable: [/var/lib/docker/overlay2/1f…]    # layers whose record is broken; absent if empty
      ready: true                        # the result of the last baseimg.doctor; absent if it never ran
      fixes:                             # of the last baseimg.fixes; absent if it never ran
        at: '2026-11-29T03:00:00Z'
        pending: [CVE-2024-5535]         # advisories whose fix is not in effect everywhere; absent if empty

``drift`` is empty or one of: ``damaged`` (out-of-band changes were detected), ``pristine damaged``,
``pristine missing`` (the directory of the pristine content was removed), ``mixed`` (files of another version of a base
below show through), ``restart unfinished`` (an operation restarts containers, or crashed, or containers failed;
``restarting`` names them), ``interrupted`` (an operation is running or crashed), ``replaced`` (the record does not know
the live directory). A base with holds has the blocked versions under ``held``. ``refused`` has the
version and the error's code; the next successful preparation or converge of the base removes it.

References contain colons, which Salt also uses as the delimiter. Colons in list members work:

.. code-block:: bash

    salt -G 'baseimg:versions:corp/base:12.0=12.1' test.ping
    salt -G 'baseimg:drifted:*' test.ping
    salt -G 'baseimg:refused:* space-exhausted' baseimg.summary
    salt -G 'baseimg:ready:false' baseimg.doctor
    salt -G 'baseimg:fixes:pending:CVE-2024-5535' baseimg.fixes
    salt -C 'web* and not G@baseimg:versions:corp/base:12.0=12.1' test.ping
    salt -G --delimiter='|' 'baseimg|bases|corp/base:12.0|generation|1' test.ping

The grain reads only the records in the layers' directories. It queries no engine and reads no layer. A base that
baseimg has never changed has no record, so it is not in the grain.

:configuration: ``baseimg:layers_roots`` (a list, in the minion's configuration): the directories that contain the
    layers' directories. Default: those of Docker, Podman, containerd and k3s. Docker's are in the data directory from
    ``/etc/docker/daemon.json``, including those of user namespaces and of the containerd that Docker starts.
"""

import contextlib
import datetime
import glob
import json
import os

_DAEMON = "/etc/docker/daemon.json"
_DATA_ROOT = "/var/lib/docker"
_SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"
_IN_DATA_ROOT = ("overlay2", f"containerd/daemon/{_SNAPSHOTS}")
_OTHERS = [
    "/var/lib/containers/storage/overlay",
    f"/var/lib/containerd/{_SNAPSHOTS}",
    f"/var/lib/rancher/k3s/agent/containerd/{_SNAPSHOTS}",
]
# The name of the live content in a layer's directory: overlay2 and Podman use the first, containerd the second.
_LIVE = ("diff", "fs")
_BROKEN = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
_LATER = ("restart unfinished", "interrupted", "")  # drift that is less severe than a mixed content
_PASSING = ("mixed", "pristine missing", "replaced")  # drift that a swap between two reads can look like
# the extended attribute with the ID of a generation's directory
_ID = "trusted.baseimg.id"
_ADVISORIES = 50  # maximum advisories in the grain
_LARGEST = 1 << 22  # maximum size of a record in bytes; a record of 100 generations has about 50,000


def baseimg():
    """Return versions, generations and drift of the bases that have a record on this node."""
    known, unreadable = _survey()
    if any(base["drift"] in _PASSING for _, _, base in known):  # a swap between two reads looks like drift
        known, unreadable = _survey()
    bases = {}
    for reference, chain_id, base in sorted(known, key=lambda item: item[:2]):
        # two bases share a reference if the tag was moved to another image
        bases[f"{reference}@{chain_id}" if reference in bases else reference] = base
    lists = {
        "versions": sorted({f"{reference}={base['version']}" for reference, _, base in known}),
        "drifted": sorted({reference for reference, _, base in known if base["drift"]}),
        "held": sorted({reference for reference, _, base in known if "held" in base}),
        "refused": _refused({(reference, base["version"]) for reference, _, base in known}),
        "unreadable": sorted(unreadable),
    }
    return {
        "baseimg": {
            "bases": bases,
            **{name: members for name, members in lists.items() if members},
            **_ready(),
            **_fixes(),
        }
    }


def _survey():
    """Return reference, chain ID and content of each base, and the layers whose record is broken."""
    known, unreadable, records = [], [], []
    for layer in (layer for root in _roots() for layer in _layers(root)):
        try:
            record, live = _load(layer)
            known.append(_read(layer, record, live))
            records.append((record, live))
        except _BROKEN:
            unreadable.append(layer)
    for (record, live), (_, _, base) in zip(records, known, strict=True):
        with contextlib.suppress(*_BROKEN):  # baseimg.status reports a record with wrong fields
            if base["drift"] in _LATER and _is_mixed(record, live, records):
                base["drift"] = "mixed"
    return known, unreadable


def _ready():
    """Return the result of the last ``baseimg.doctor``; empty if it never ran."""
    try:
        with open(os.path.join(__opts__["cachedir"], "baseimg/doctor.json"), "rb") as file:
            return {"ready": bool(json.loads(file.read(_LARGEST))["ready"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _fixes():
    """Return the advisories that the last ``baseimg.fixes`` found not in effect; empty if it never ran."""
    try:
        with _open(os.path.join(__opts__["cachedir"], "baseimg/fixes.json")) as file:
            saved = json.loads(file.read(_LARGEST))
        pending = sorted({str(advisory) for counts in saved["pending"].values() for advisory in counts})
        return {"fixes": {"at": str(saved["at"]), **({"pending": pending[:_ADVISORIES]} if pending else {})}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _refused(live):
    """Return the refused versions, except those in ``live`` (reference, version), as ops.refusals.standing does."""
    directory, refused = os.path.join(__opts__["cachedir"], "baseimg/refused"), []
    with contextlib.suppress(OSError):  # nothing was ever refused
        for name in os.listdir(directory):
            with contextlib.suppress(*_BROKEN), _open(os.path.join(directory, name)) as file:
                refusal = json.loads(file.read(_LARGEST))
                base, version, code = (str(refusal[key]) for key in ("base", "version", "code"))
                if (base, version) not in live:
                    refused.append(f"{base}={version} {code}")
    return sorted(refused)


def _roots():
    """Return the directories that contain layers' directories: configured, or the engines' defaults."""
    options = __opts__.get("baseimg")
    configured = options.get("layers_roots") if isinstance(options, dict) else None
    if isinstance(configured, list):
        return [root for root in configured if isinstance(root, str)]
    data_root = _DATA_ROOT
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError), open(_DAEMON, "rb") as file:
        data_root = os.fspath(json.load(file).get("data-root", data_root))
    # with userns-remap each mapping has its own data directory: <data-root>/100000.100000
    data_roots = [data_root, *sorted(glob.glob(os.path.join(glob.escape(data_root), "[0-9]*.[0-9]*")))]
    return [os.path.join(directory, name) for directory in data_roots for name in _IN_DATA_ROOT] + _OTHERS


def _layers(root):
    """Return the layers' directories that have a record."""
    try:
        names = os.listdir(root)
    except OSError:  # this engine is not installed
        return []
    # access(2) is cheaper than an exception, and most layers have no record
    return [f"{root}/{name}" for name in names if os.access(f"{root}/{name}/baseimg/state.json", os.F_OK)]


def _open(path):
    """Open a file for reading; a FIFO there does not block."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def _load(layer):
    """Return the record of a layer's base, and its live generation; None if it is not in the record."""
    with _open(os.path.join(layer, "baseimg/state.json")) as file:
        record = json.loads(file.read(_LARGEST))
    live = _describe(_live(layer))
    return record, next((item for item in record["generations"] if _is_generation(item, live)), None)


def _is_mixed(record, live, records):
    """Return True if the live content of a base below shows through a base that must show its own image.

    Equal to the core's rule (model.store.nests.mixed).
    """
    own, layers = _content(live), record["diff_ids"]
    below = [(other, current) for other, current in records if layers[: len(other["diff_ids"])] == other["diff_ids"]]
    below = [(other, current) for other, current in below if current and other["diff_ids"] != layers]
    is_version = any(record["chain_id"] in _activated(other) for other, _ in below)
    declared = record.get("below", "")
    if declared == "follow" or not (declared or is_version or own != record["chain_id"]):
        return False
    return any(
        _content(current) not in (other["chain_id"], own, *live.get("over", {}).get(other["chain_id"], ()))
        for other, current in below
    )


def _activated(record):
    """Return the chain IDs of the generations that were live: a prepared one decides nothing before its swap."""
    return {item["chain_id"] for item in record["generations"] if item.get("activated") or not item.get("prepared")}


def _content(generation):
    return generation["chain_id"] or f"generation {generation['number']}"


def _read(layer, record, generation):
    """Return reference, chain ID and content of a layer's base. A broken record raises."""
    restarting = _restarting(layer)
    if generation is None:
        drift, version, number = "replaced", "unknown", None
    else:
        drift = _drift(layer, record, generation, restarting)
        version, number = generation["version"], generation["number"]
    texts = (record["reference"], record["chain_id"], version)
    if not all(isinstance(text, str) for text in texts) or not isinstance(number, int | None):
        raise TypeError("a field has the wrong type")
    base = {"version": version, "generation": number, "drift": drift}
    lists = {"restarting": restarting, "held": _held(layer)}
    return record["reference"], record["chain_id"], {**base, **{key: names for key, names in lists.items() if names}}


def _held(layer):
    """Return the versions with an active hold, as the core does (model.store.hold)."""
    try:
        with _open(os.path.join(layer, "baseimg/holds.json")) as file:
            holds = json.loads(file.read(_LARGEST))["holds"]
    except FileNotFoundError:
        return []
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return sorted(str(hold["version"]) for hold in holds if not hold["until"] or now < hold["until"])


def _restarting(layer):
    """Return the names of containers that a restart stopped and that have not passed their gate since."""
    try:
        with _open(os.path.join(layer, "baseimg/restarting.json")) as file:
            noted = json.loads(file.read(_LARGEST))
    except FileNotFoundError:
        return []
    return sorted(str(name) for key, name in noted["names"].items() if key not in noted["passed"])


def _drift(layer, record, live, restarting):
    """Return a base's drift from its record, equal to the core's (model.store.drift)."""
    pristine = next(item for item in record["generations"] if item["number"] == 0)
    if live["damaged"]:
        return "damaged"
    if pristine["damaged"]:
        return "pristine damaged"
    if live is not pristine and not record["unproven"] and not _is_kept(layer, pristine):
        return "pristine missing"
    if restarting:
        return "restart unfinished"
    return "interrupted" if record["intent"] else ""


def _is_kept(layer, generation):
    """Return True if a kept directory is this generation; during a swap it is ``staging``."""
    home = os.path.join(layer, "baseimg")
    with contextlib.suppress(FileNotFoundError):
        paths = [os.path.join(home, "generations", name) for name in os.listdir(os.path.join(home, "generations"))]
        for path in (*paths, os.path.join(home, "staging")):
            with contextlib.suppress(FileNotFoundError):
                if _is_generation(generation, _describe(path)):
                    return True
    return False


def _is_generation(item, directory):
    """Return True if a directory, as (inode, ID), is this generation; format 1 has no IDs."""
    return item["id"] == directory[1] if item.get("id") else item["inode"] == directory[0]


def _describe(path):
    """Return inode and ID of a directory."""
    inode, identity = os.stat(path).st_ino, ""
    with contextlib.suppress(OSError):  # ENODATA: the directory has no ID
        identity = os.getxattr(path, _ID).decode()
    return inode, identity


def _live(layer):
    """Return the path of a layer's live directory."""
    for name in _LIVE:
        if os.path.isdir(os.path.join(layer, name)):
            return os.path.join(layer, name)
    raise FileNotFoundError(layer)
