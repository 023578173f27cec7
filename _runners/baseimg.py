"""
The fleet, seen and moved from the master.

Every failure is a ``CommandExecutionError`` whose ``info`` holds a stable ``code``, the message and a hint; so
``salt-run`` exits non-zero.
"""

import sys

import salt.client
from salt.exceptions import CommandExecutionError, SaltClientError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"
_VERSION = "0.1.0"

try:
    import baseimg_core

    if baseimg_core.__version__ == _VERSION:
        from baseimg_core.model import fleet as model_fleet
    _MISSING = None
except ImportError as exc:
    _MISSING = str(exc)


def __virtual__():
    if _MISSING:
        return False, f"baseimg cannot be loaded: {_MISSING} (needs its own _utils: salt-run saltutil.sync_all)"
    if baseimg_core.__version__ != _VERSION:
        return False, f"baseimg {_VERSION} met the core of version {baseimg_core.__version__}: sync again"
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
