"""
Which version every base on this node shows, to target by.

.. code-block:: yaml

    baseimg:
      bases:
        corp/base:12.0: {version: '12.1', generation: 1, drift: damaged}
      versions: ['corp/base:12.0=12.1']
      drifted: ['corp/base:12.0']        # only where there are any, since * would match an empty list
      unreadable: [/var/lib/docker/overlay2/1f…]    # layers whose record is broken; likewise

``drift`` is ``damaged`` (found changed by ``baseimg.verify`` or a repair), ``interrupted``, ``replaced`` (the live
directory is none that the record knows), or empty. References hold colons, and so may the members of a list:

.. code-block:: bash

    salt -G 'baseimg:versions:corp/base:12.0=12.1' test.ping
    salt -G 'baseimg:drifted:*' test.ping
    salt -C 'web* and not G@baseimg:versions:corp/base:12.0=12.1' test.ping
    salt -G --delimiter='|' 'baseimg|bases|corp/base:12.0|generation|1' test.ping

Everything is read from the records beside the layers: no engine is asked, no layer is read. So a base to which nothing
was ever applied is not here.

:configuration: ``baseimg:layers_roots`` (a list, in the minion's configuration) names the directories in which the
    layers' own directories lie. By default those of Docker (also where ``/etc/docker/daemon.json`` moves its data),
    Podman and containerd.
"""

import contextlib
import json
import os

_DAEMON = "/etc/docker/daemon.json"
_DATA_ROOT = "/var/lib/docker"
_OTHERS = [
    "/var/lib/containers/storage/overlay",
    "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots",
]
_LARGEST = 1 << 22  # bytes of a record; with a hundred generations one takes about 50,000


def baseimg():
    """Versions, generations and drift of the bases that have a record on this node."""
    known, unreadable = [], []
    for root in _roots():
        for layer in _layers(root):
            try:
                known.append(_read(layer))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                unreadable.append(layer)
    bases = {}
    for reference, chain_id, shown in sorted(known, key=lambda one: one[:2]):
        # twice, where the tag was given to another image later
        bases[f"{reference}@{chain_id}" if reference in bases else reference] = shown
    lists = {
        "versions": sorted({f"{reference}={shown['version']}" for reference, _, shown in known}),
        "drifted": sorted({reference for reference, _, shown in known if shown["drift"]}),
        "unreadable": sorted(unreadable),
    }
    return {"baseimg": {"bases": bases, **{name: members for name, members in lists.items() if members}}}


def _roots():
    """Directories that hold layers' directories, as configured, else where engines have them."""
    options = __opts__.get("baseimg")
    configured = options.get("layers_roots") if isinstance(options, dict) else None
    if isinstance(configured, list):
        return [root for root in configured if isinstance(root, str)]
    data = _DATA_ROOT
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError), open(_DAEMON, "rb") as file:
        data = os.fspath(json.load(file).get("data-root", data))
    return [os.path.join(data, "overlay2"), *_OTHERS]


def _layers(root):
    """The layers' directories that have a record."""
    try:
        names = os.listdir(root)
    except OSError:  # no such engine here
        return []
    # access(2), since most have none, and raising takes longer than looking
    return [f"{root}/{name}" for name in names if os.access(f"{root}/{name}/baseimg/state.json", os.F_OK)]


def _read(layer):
    """A layer's base: reference, chain ID, and what it shows. Raises whatever a broken record leads to."""
    with open(os.path.join(layer, "baseimg/state.json"), "rb") as file:
        record = json.loads(file.read(_LARGEST))
    live = os.stat(os.path.join(layer, "diff")).st_ino
    generations = {one["number"]: one for one in record["generations"]}
    shown = next((one for one in generations.values() if one["inode"] == live), None)
    if shown is None:
        drift, version, number = "replaced", "unknown", None
    else:
        drift = "damaged" if shown["damaged"] else "interrupted" if record["intent"] else ""
        version, number = shown["version"], shown["number"]
    texts = (record["reference"], record["chain_id"], version)
    if not all(isinstance(text, str) for text in texts) or not isinstance(number, int | None):
        raise TypeError("a field of another type")
    return record["reference"], record["chain_id"], {"version": version, "generation": number, "drift": drift}
