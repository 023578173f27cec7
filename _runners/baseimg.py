"""
The fleet, seen and moved from the master.

Every failure is a ``CommandExecutionError`` whose ``info`` holds a stable ``code``, the message and a hint; so
``salt-run`` exits non-zero.
"""

import contextlib
import json
import os
import re
import sys

import salt.client
from salt.exceptions import CommandExecutionError, SaltClientError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"

try:
    from baseimg_core.disk.records import now
    from baseimg_core.errors import ArgumentInvalid, BaseimgError, RecordInvalid
    from baseimg_core.model import fleet as model_fleet
    from baseimg_core.ops import seeing
    from baseimg_core.report.page import page

    _MISSING = None
except ImportError as exc:
    _MISSING = str(exc)


def __virtual__():
    if _MISSING:
        return False, f"the runner baseimg cannot be loaded: {_MISSING} (needs its own _utils: saltutil.sync_all)"
    return __virtualname__


def fleet(tgt="*", tgt_type="glob", timeout=None):
    """
    Show where every node is: how many show which version of which base, what drifted, which containers are outdated,
    and who did not answer.

    tgt, tgt_type
        Which nodes, as for ``salt``; ``tgt_type`` is ``glob``, ``grain``, ``compound``, ``list``, ….

    timeout
        Seconds to wait for an answer; the master's ``timeout`` by default. Nodes that still work on it are waited for.

    A node that was expected (the master has accepted its key, and the target fits) and did not answer is
    ``unreachable`` and named. On a terminal a table is shown; with ``--out=json``, in orchestration and over the API
    the data is returned: ``format``, ``nodes`` and ``answered`` (counts), ``unreachable``, ``failed``, ``without``,
    ``unreadable``, and by base the nodes of each version (``versions``), ``behind`` (the version is not the declared
    one), ``drifted``, ``outdated`` and ``unknown`` (containers by node).

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.fleet
        salt-run baseimg.fleet 'web*' --out=json
        salt-run baseimg.fleet 'baseimg:drifted:*' tgt_type=grain
    """
    expected, answers = _ask(tgt, tgt_type, timeout, "baseimg.status", declared=True)
    found = model_fleet.collect(expected, answers)
    # What salt-run was told to call, and how to print it: a person at a terminal has asked for no format.
    if __opts__.get("fun") == "baseimg.fleet" and "output" not in __opts__:
        return {"outputter": "txt", "data": model_fleet.table(found)}
    return found


def report(path, rollout=None, tgt="*", tgt_type="glob", timeout=None):
    """
    Write a page that shows the fleet: nodes by version, failures with reasons, what a new base means for each
    application image, packages, and a rollout's waves. One HTML file that needs nothing else, neither net nor server.

    path
        The file to write, absolute. It is replaced atomically, and everybody on this machine may read it.

    rollout
        The ID of a rollout whose waves to show.

    tgt, tgt_type, timeout
        Which nodes, as for :py:func:`baseimg.fleet`.

    Images are judged by ``baseimg.impact`` on as few nodes as together hold all of them, 20 at most.

    Returns ``path``, ``bytes``, how many ``nodes`` there are, those that are ``unreachable``, and which were ``asked``
    for the impact.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.report path=/srv/www/baseimg.html
        salt-run baseimg.report path=/srv/www/baseimg.html rollout=20261124T030000-1f3a
    """
    with _told():
        if not isinstance(path, str) or not os.path.isabs(path):
            raise ArgumentInvalid(f"path is {path!r}, expected an absolute path")
        record = None if rollout is None else _rollout(rollout)
        expected, answers = _ask(tgt, tgt_type, timeout, "baseimg.status", declared=True)
        seen = model_fleet.collect(expected, answers)
        bases = [record["base"]] if record else list(seen["bases"])
        impacts = [one for base in bases for one in _impacts(base, answers, timeout)]
        size = seeing.publish(path, page(seen, now(), record, impacts))
    asked = [one["node"] for one in impacts]
    return {
        "path": path,
        "bytes": size,
        "nodes": seen["nodes"],
        "unreachable": seen["unreachable"],
        "asked": asked,
    }


def _rollout(name):
    """A rollout's record as plain data."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ArgumentInvalid(f"rollout is {name!r}, expected an ID as 'salt-run baseimg.status' lists them")
    path = os.path.join(__opts__["cachedir"], "baseimg", "rollouts", f"{name}.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise ArgumentInvalid(f"there is no rollout {name!r}, expected an ID that {path} would hold") from None
    except ValueError as exc:
        raise RecordInvalid(f"{path} is damaged: {exc}") from exc


def _impacts(base, answers, timeout):
    """What a few nodes that hold all images on a base tell of a new version's impact."""
    nodes = model_fleet.cover(answers, base)
    told = _ask(nodes, "list", timeout, "baseimg.impact", base)[1] if nodes else {}
    return [{"node": node, "impact": told.get(node, "did not answer")} for node in nodes]


@contextlib.contextmanager
def _told():
    """The core's errors become Salt's."""
    try:
        yield
    except BaseimgError as exc:
        raise CommandExecutionError(str(exc), info=exc.as_dict()) from None


def _ask(tgt, tgt_type, timeout, function, *arguments, **named):
    """Call a function on nodes: who was expected to answer, and what each of them that did answered."""
    with salt.client.get_local_client(mopts=__opts__) as client:
        replies = client.cmd_iter(tgt, function, arguments, timeout, tgt_type, kwarg=named, yield_pub_data=True)
        try:
            published = next(replies, None) or {}
            answers = {node: one["ret"] for reply in replies for node, one in (reply or {}).items() if "ret" in one}
        except SaltClientError as exc:
            raise CommandExecutionError(f"cannot ask {tgt!r}: {exc}") from exc
    return published.get("minions", []), answers
