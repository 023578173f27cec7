"""
Rollouts over the fleet, and the state of the fleet, from the master.

:depends: the master's job cache (``job_cache: True``, the default). Outcomes are read from it, because it is written
    from authenticated returns; any minion can put any event on the bus.

``rollout``, ``plan``, ``resume``, ``halt``, ``rollback``, ``retry`` and ``status`` return a ``retcode``, which is also
the exit code of ``salt-run``:

- 0: success: ``done``; ``rolled-back`` of ``rollback``; ``halted`` of ``halt``
- 10: ``done-with-refusals``: done, without the nodes that refused
- 11, 12, 13: ``halted`` by request, by a closed window, by a failure
- 14: interrupted: the process ended early
- 15: ``rolled-back`` after a failure
- 16: ``failed``: the rollback is incomplete
- 17: refused: nothing was changed; ``error`` has ``code``, ``message`` and ``hint``, or the reason names the nodes

The other functions raise ``CommandExecutionError``; its ``info`` holds ``code``, ``message`` and ``hint``.
"""

import contextlib
import os
import sys

import salt.client
import salt.payload
import salt.utils.args
import salt.utils.event
import salt.utils.jid
import salt.utils.minions
from salt.exceptions import CommandExecutionError, SaltClientError, SaltDeserializationError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"

try:
    import baseimg_core
    from baseimg_core.disk.store.layout import now
    from baseimg_core.errors import ArgumentInvalid, BaseimgError
    from baseimg_core.linux.oserrors import translate_os_errors
    from baseimg_core.model.rollout import fleet as model_fleet
    from baseimg_core.ops import status as ops_status
    from baseimg_core.report.page import page
    from baseimg_core.rollout.commands import Rollouts, check_master, refusal
    from baseimg_core.rollout.store import Store
    from baseimg_core.rollout.transport import SaltTransport, local_cache

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

    Every node is prepared first (its bundle fetched and verified), so that applying is local. A node that does not
    answer counts as a failure. The record is kept on the master: after a halt, a crash or a restart, continue with
    ``baseimg.resume``. Progress goes to stderr, and to the event bus below ``salt/baseimg/rollout/<id>/``.

    base
        The base's reference, as in the nodes' pillar, which also declares the bundles.

    version
        The version to show. Default: the one that every node's pillar declares.

    All other arguments are keys of the policy. They override ``baseimg:rollout`` in the master's pillar, which
    overrides the master's configuration: ``target``, ``exclude``, ``unreachable``, ``refused``, ``canary``, ``waves``,
    ``success_threshold``, ``max_unavailable``, ``min_available``, ``group_by``, ``prepare_at_once``, ``soak``,
    ``gate``, ``gate_interval``, ``on_failure``, ``window``, ``timeout``, ``keep_records``
    (docs/operating/rollout.md).

    Returns the rollout's ``id``, ``state``, ``reason`` and ``cause``, its ``waves``, counts of ``nodes`` by state, the
    nodes that ``failed``, ``refused``, were ``unreachable`` or ``skipped``, with reasons, and the ``retcode``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.rollout corp/base:12.0 "'12.1'" canary=1 waves="['10%', '50%']" soak=600 on_failure=rollback
    """
    return _run(lambda rollouts: rollouts.start(base, version, *_policies(kwargs)))


def plan(base, version=None, **kwargs):
    """
    Show the waves of a rollout and what would happen to each node, and change nothing.

    base, version
        As for :py:func:`baseimg.rollout`, and so are keys of the policy.

    Returns the ``waves`` with their nodes, the number ``max_unavailable``, the ``blast_radius`` (``nodes``, nodes by
    ``images`` on the base, and the number of running ``containers`` on it), the nodes that are ``skipped``, ``failed``
    or ``unreachable``, those whose pillar declares another version, and the ``policy`` with all its keys.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.plan corp/base:12.0 canary=1
    """
    return _run(lambda rollouts: rollouts.plan(base, version, *_policies(kwargs)))


def resume(id=None, only=None):
    """
    Continue rollouts that were halted, or whose process ended.

    The outcome on nodes that were applying is found out first. Nodes that failed or did not answer are tried again. A
    rollback in progress continues as a rollback.

    id
        The rollout's ID, or its base. Default: every unfinished rollout, one after the other.

    only
        ``window``: only rollouts that a closed window halted; success if there is none. For Salt's scheduler.

    Returns what :py:func:`baseimg.rollout` returns; of several rollouts, that by ID under ``rollouts``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.resume
        salt-run baseimg.resume only=window
    """
    return _run(lambda rollouts: rollouts.resume(id, only))


def retry(id):
    """
    Roll out once more, to the nodes of a rollout that failed, refused or did not answer, as one wave.

    id
        The rollout's ID, or its base, for the newest one.

    Returns what :py:func:`baseimg.rollout` returns, of a new rollout.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.retry 20261124T030000-1f3a
    """
    return _run(lambda rollouts: rollouts.retry(id))


def halt(id=None):
    """
    Start no further node; nodes that are applying finish. The rollout can be resumed.

    id
        The rollout's ID, or its base. Default: every rollout that is under way.

    Returns what :py:func:`baseimg.rollout` returns; of several rollouts, that by ID under ``rollouts``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.halt
    """
    return _run(lambda rollouts: rollouts.halt(id))


def rollback(id=None, since=None):
    """
    Take back what a rollout changed, and nothing else. A node that does not answer is named, and is an error.

    Pillar is not changed: if it declares the new version, the next ``state.apply`` applies that again.

    id
        The rollout's ID, or its base: the newest rollout of the base that changed a node. Default: the only unfinished
        rollout.

    since
        An ID or a time (ISO 8601). With a base as ``id``: take back every change since then, over several rollouts.

    Returns what :py:func:`baseimg.rollout` returns.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.rollback 20261124T030000-1f3a
        salt-run baseimg.rollback corp/base:12.0 since=2026-11-24
    """
    return _run(lambda rollouts: rollouts.roll_back(id, None if since is None else str(since)))


def status(id=None):
    """
    Show a rollout with every node, or list all of them.

    id
        The rollout's ID, or its base. Default: the list.

    Returns the record. An unfinished rollout has ``moved_by``, the process that moves it or ``nobody``, and in the
    second case ``next``, the commands that continue it.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.status
        salt-run baseimg.status 20261124T030000-1f3a --out=json
    """
    return _run(lambda rollouts: rollouts.status(id))


def arrived(tag, id):
    """
    Converge a node that started, or that reported new images; for ``reactor/baseimg.sls``.

    tag
        The event's tag: ``salt/minion/<id>/start`` or ``salt/beacon/<id>/baseimg/arrived``. Any minion can send any
        event, so the tag must name the same minion as ``id``, and the master must have accepted its key.

    id
        The minion's ID, from the event's data.

    A node of an open rollout is left alone: its wave decides when it changes.

    Returns the ``job`` that was sent (``state.apply baseimg``), or why the node was ``left``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.arrived salt/minion/web1/start web1
    """
    return _run(lambda rollouts: rollouts.arrived(tag, id))


def fleet(tgt="*", tgt_type="glob", timeout=None):
    """
    Show the state of every node: nodes by version of each base, drift, outdated containers, and nodes without answer.

    tgt, tgt_type
        Target, as for ``salt``; ``tgt_type`` is ``glob``, ``grain``, ``compound``, ``list``, ….

    timeout
        Seconds to wait for an answer; default: the master's ``timeout``. A node that still works is waited for.

    A node is expected if the master has accepted its key and the target matches it. An expected node that does not
    answer is ``unreachable``. On a terminal a table is shown. With ``--out=json``, in orchestration and over the API
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
    summary = model_fleet.collect(expected, answers, baseimg_core.__version__)
    # __opts__ tells what salt-run was asked to call, and how to print it: a person at a terminal gives no format
    if __opts__.get("fun") == "baseimg.fleet" and "output" not in __opts__:
        return {"outputter": "txt", "data": model_fleet.table(summary)}
    return summary


def report(path, rollout=None, tgt="*", tgt_type="glob", timeout=None):
    """
    Write a page about the fleet: nodes by version, failures with reasons, the impact of a new base on each application
    image, packages, and a rollout's waves. One HTML file that needs no network and no server.

    path
        The file to write, absolute. It is replaced atomically and is world-readable.

    rollout
        The ID of a rollout whose waves to show.

    tgt, tgt_type, timeout
        As for :py:func:`baseimg.fleet`.

    Images are judged by ``baseimg.impact`` on as few nodes as together have all of them, 20 at most.

    Returns ``path``, ``bytes``, the number of ``nodes``, the names of ``unreachable`` ones, and of those that were
    ``asked`` for the impact.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.report path=/srv/www/baseimg.html
        salt-run baseimg.report path=/srv/www/baseimg.html rollout=20261124T030000-1f3a
    """
    with _salt_errors():
        if not isinstance(path, str) or not os.path.isabs(path):
            raise ArgumentInvalid(f"path is {path!r}, expected an absolute path")
        record = None if rollout is None else _record(rollout)
        expected, answers = _ask(tgt, tgt_type, timeout, "baseimg.status", declared=True)
        summary = model_fleet.collect(expected, answers, baseimg_core.__version__)
        bases = [record["base"]] if record else list(summary["bases"])
        impacts = [impact for base in bases for impact in _impacts(base, answers, timeout)]
        size = ops_status.publish(path, page(summary, now(), record, impacts))
    return {
        "path": path,
        "bytes": size,
        "nodes": summary["nodes"],
        "unreachable": summary["unreachable"],
        "asked": [impact["node"] for impact in impacts],
    }


def _run(command):
    """Call a command on this master's rollouts; a refusal is a result with a return code, too."""
    try:
        check_master(__opts__)
        with (
            translate_os_errors("a file of this master", "use"),
            salt.client.LocalClient(mopts=__opts__) as client,
            salt.utils.event.get_event("master", opts=__opts__, listen=True) as bus,
        ):
            check = salt.utils.minions.CkMinions(__opts__).check_minions
            returns = _returns(client)
            transport = SaltTransport(client, bus, lambda: salt.utils.jid.gen_jid(__opts__), check, returns)
            gather = max(__opts__["gather_job_timeout"], 1)
            by = globals().get("__user__", "root")
            result = command(Rollouts(transport, Store(__opts__["cachedir"]), gather, by))
    except BaseimgError as exc:
        result = refusal(exc)
    __context__["retcode"] = result.get("retcode", 0)  # for state.orchestrate
    return dict(result)


def _returns(client):
    """A function that reads the returns of a job from the job cache, for some nodes."""
    cache = __opts__["master_job_cache"]
    if cache != "local_cache":
        # such a cache has no function for some nodes only
        return lambda jid, nodes: {
            node: data for node, data in client.returners[f"{cache}.get_jid"](jid).items() if node in set(nodes)
        }
    jobs = os.path.join(__opts__["cachedir"], "jobs")

    def directory(jid):
        return salt.utils.jid.jid_dir(jid, jobs, __opts__["hash_type"])

    def load(data):
        try:
            return salt.payload.loads(data)
        except SaltDeserializationError as exc:
            raise ValueError(str(exc)) from exc

    return local_cache(directory, load)


def _policies(kwargs):
    """The parts of the policy; the last one wins."""
    pillar = __salt__["pillar.show_pillar"](__opts__["id"])
    if pillar.get("_errors"):
        raise ArgumentInvalid(f"the master's pillar is broken: {pillar['_errors'][0]}, expected one that renders")
    places = [place.get("baseimg") for place in (__opts__, pillar)]
    return [
        *(place.get("rollout") if isinstance(place, dict) else None for place in places),
        salt.utils.args.clean_kwargs(**kwargs),
    ]


def _record(name):
    """A rollout's record as plain data."""
    store = Store(__opts__["cachedir"])
    if name not in store.ids():
        raise ArgumentInvalid(f"rollout is {name!r}, expected an ID that 'salt-run baseimg.status' lists")
    return store.read(name).as_dict()


def _impacts(base, answers, timeout):
    """The impact of a new version, from a few nodes that together have all images on a base."""
    nodes = model_fleet.cover(answers, base)
    impacts = _ask(nodes, "list", timeout, "baseimg.impact", base)[1] if nodes else {}
    return [{"node": node, "impact": impacts.get(node, "did not answer")} for node in nodes]


@contextlib.contextmanager
def _salt_errors():
    """Turn the core's errors into Salt's."""
    try:
        with translate_os_errors("a file of this master", "use"):
            yield
    except BaseimgError as exc:
        raise CommandExecutionError(str(exc), info=exc.as_dict()) from None


def _ask(tgt, tgt_type, timeout, function, *arguments, **named):
    """Call a function on nodes; return the expected nodes, and the answers by node."""
    with salt.client.get_local_client(mopts=__opts__) as client:
        replies = client.cmd_iter(tgt, function, arguments, timeout, tgt_type, kwarg=named, yield_pub_data=True)
        try:
            published = next(replies, None) or {}
            answers = {node: data["ret"] for reply in replies for node, data in (reply or {}).items() if "ret" in data}
        except SaltClientError as exc:
            raise CommandExecutionError(f"cannot ask {tgt!r}: {exc}") from exc
    return published.get("minions", []), answers
