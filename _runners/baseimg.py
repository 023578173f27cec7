"""
The fleet, seen and moved from the master.

Every failure is a ``CommandExecutionError`` whose ``info`` holds a stable ``code``, the message and a hint; so
``salt-run`` exits non-zero.
"""

import contextlib
import sys

import salt.client
import salt.utils.args
import salt.utils.event
import salt.utils.jid
import salt.utils.minions
from salt.exceptions import CommandExecutionError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"

try:
    from baseimg_core.errors import ArgumentInvalid, BaseimgError
    from baseimg_core.rollouts.commands import Rollouts
    from baseimg_core.rollouts.site import Site
    from baseimg_core.rollouts.store import Store

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
    ``max_unavailable``, ``prepare_at_once``, ``soak``, ``on_failure``, ``window``, ``timeout`` (docs/rollout.md).

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
        try:
            yield Rollouts(site, Store(__opts__["cachedir"]), gather, globals().get("__user__", "root"))
        except BaseimgError as exc:
            raise CommandExecutionError(str(exc), info=exc.as_dict()) from None


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
