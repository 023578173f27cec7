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
import salt.utils.args
import salt.utils.event
import salt.utils.jid
import salt.utils.minions
from salt.exceptions import CommandExecutionError, SaltClientError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"

try:
    from baseimg_core.disk.store.layout import now
    from baseimg_core.errors import ArgumentInvalid, BaseimgError, RecordInvalid
    from baseimg_core.linux.oserrors import translate_os_errors
    from baseimg_core.model.rollout import fleet as model_fleet
    from baseimg_core.ops import status as ops_status
    from baseimg_core.report.page import page
    from baseimg_core.rollout.commands import Rollouts
    from baseimg_core.rollout.store import Store
    from baseimg_core.rollout.transport import Site

    _MISSING = None
except ImportError as exc:
    _MISSING = str(exc)


def __virtual__():
    if _MISSING:
        return False, f"the runner baseimg cannot be loaded: {_MISSING} (needs its own _utils: saltutil.sync_all)"
    return __virtualname__


def rollout(base, version=None, **kwargs):
    """
    Bring a base to a version on the whole fleet: a canary, then wave after wave, with a gate behind each.

    Every node is prepared first (its bundle fetched and checked), so that applying is local. A node that does not
    answer counts as a failure. The record is kept on the master: after a halt, a crash or a restart, go on with
    ``baseimg.resume``. Progress goes to stderr, and to the event bus below
    ``salt/baseimg/rollout/<id>/``.

    base
        The base's reference, as in the nodes' pillar, which also says where the bundles are.

    version
        The version to show; by default the one that every node's pillar declares.

    All other arguments are keys of the policy and count more than ``baseimg:rollout`` in the master's pillar, which
    counts more than that in its configuration: ``target``, ``canary``, ``waves``, ``success_threshold``,
    ``max_unavailable``, ``prepare_at_once``, ``soak``, ``on_failure``, ``window``, ``timeout``
    (docs/operating/rollout.md).

    Returns the rollout's ``id`` and ``state``, its ``waves``, how many ``nodes`` are in which state, and those that
    ``failed``, were ``unreachable`` or ``skipped``, by name and with the reason. Ends with an error unless every wave
    has passed, also where the way back went well.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.rollout corp/base:12.0 "'12.1'" canary=1 waves="['10%', '50%']" soak=600 on_failure=rollback
    """
    with _operation() as rollouts:
        return rollouts.start(base, version, *_policies(kwargs))


def plan(base, version=None, **kwargs):
    """
    Tell who would be in which wave of a rollout, and what would happen, and change nothing.

    base, version
        As for :py:func:`baseimg.rollout`, and so are keys of the policy.

    Returns the ``waves`` with their nodes, how many nodes ``max_unavailable`` is, the nodes that are ``skipped`` or
    ``unreachable``, those whose pillar declares another version, and the ``policy`` with all its keys.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.plan corp/base:12.0 canary=1
    """
    with _operation() as rollouts:
        return rollouts.plan(base, version, *_policies(kwargs))


def resume(id=None):
    """
    Go on with a rollout that was halted, or whose process is gone.

    Nodes that were in the middle of something are asked first what came of it. Those that failed or did not answer are
    tried again. Where the rollout was going back, it goes on going back.

    id
        The rollout's ID, or its base; not needed where only one is unfinished.

    Returns what :py:func:`baseimg.rollout` returns.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.resume
    """
    with _operation() as rollouts:
        return rollouts.resume(id)


def halt(id=None):
    """
    Have a rollout start no other node; those that are applying end what they do. It can be resumed.

    id
        The rollout's ID, or its base; not needed where only one is going on.

    Returns what :py:func:`baseimg.rollout` returns.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.halt
    """
    with _operation() as rollouts:
        return rollouts.halt(id)


def rollback(id=None):
    """
    Take back what a rollout has updated, and nothing else. Nodes that do not answer are named, and it is an error.

    Pillar is not changed: where it declares the new version, the next ``state.apply`` brings that again.

    id
        The rollout's ID, or its base; not needed where only one is unfinished.

    Returns what :py:func:`baseimg.rollout` returns.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.rollback 20261124T030000-1f3a
    """
    with _operation() as rollouts:
        return rollouts.roll_back(id)


def status(id=None):
    """
    Show a rollout with every node, or list all of them.

    id
        The rollout's ID, or its base; the list by default.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.status
        salt-run baseimg.status 20261124T030000-1f3a --out=json
    """
    with _operation() as rollouts:
        return rollouts.status(id)


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
        size = ops_status.publish(path, page(seen, now(), record, impacts))
    asked = [one["node"] for one in impacts]
    return {
        "path": path,
        "bytes": size,
        "nodes": seen["nodes"],
        "unreachable": seen["unreachable"],
        "asked": asked,
    }


@contextlib.contextmanager
def _operation():
    """This master's rollouts, for one operation; the core's errors become Salt's."""
    with (
        salt.client.LocalClient(mopts=__opts__) as client,
        salt.utils.event.get_event("master", opts=__opts__, listen=True) as bus,
    ):
        check = salt.utils.minions.CkMinions(__opts__).check_minions
        site = Site(client, bus, lambda: salt.utils.jid.gen_jid(__opts__), check)
        gather = max(__opts__["gather_job_timeout"], 1)
        with _told():
            yield Rollouts(site, Store(__opts__["cachedir"]), gather, globals().get("__user__", "root"))


def _policies(kwargs):
    """The places that a policy comes from, the last counts most."""
    pillar = __salt__["pillar.show_pillar"](__opts__["id"])
    if pillar.get("_errors"):
        raise ArgumentInvalid(f"the master's pillar is broken: {pillar['_errors'][0]}, expected one that renders")
    places = [place.get("baseimg") for place in (__opts__, pillar)]
    return [
        *(place.get("rollout") if isinstance(place, dict) else None for place in places),
        salt.utils.args.clean_kwargs(**kwargs),
    ]


def _rollout(name):
    """A rollout's record as plain data."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ArgumentInvalid(f"rollout is {name!r}, expected an ID as 'salt-run baseimg.status' lists them")
    path = os.path.join(Store(__opts__["cachedir"]).home, f"{name}.json")
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
        with translate_os_errors("a file of this master", "use"):
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
