"""
Rollouts and the state of the fleet, from the master.

:depends: the master's job cache (``job_cache: True``, the default). Outcomes come from the cache, which the master
    writes from authenticated returns. Events prove nothing, because any minion can send any event.

``rollout``, ``plan``, ``resume``, ``halt``, ``rollback``, ``retry`` and ``status`` return a ``retcode``, which is also
the exit code of ``salt-run``:

- 0: success: ``done``; for ``rollback``, ``rolled-back``; for ``halt``, ``halted``
- 10: ``done-with-refusals``: done, without the nodes that refused
- 11, 12, 13: ``halted`` by request, by a closed window, by a failure
- 14: interrupted: the process ended early
- 15: ``rolled-back`` after a failure
- 16: ``failed``: the rollback is incomplete
- 17: refused: nothing was changed; ``error`` has ``code``, ``message`` and ``hint``, or ``reason`` names the nodes

``salt-run`` without ``--out`` leaves out empty keys.

The other functions return an ``error`` with ``code``, ``message`` and ``hint``, and the ``retcode`` 1, if they fail.
"""

import functools
import inspect
import json
import os
import sys
import time
import uuid

import salt.cache
import salt.client
import salt.payload
import salt.utils.args
import salt.utils.event
import salt.utils.jid
import salt.utils.minions
from salt.exceptions import SaltClientError, SaltDeserializationError

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"
_REPORT_AGE = 3600  # seconds that answers about fixes may be old in the report
_ON_ROLLOUTS = ("rollout", "plan", "resume", "retry", "halt", "rollback", "status", "arrived", "move")

try:
    import baseimg_core
    from baseimg_core.disk.store.layout import now
    from baseimg_core.errors import ArgumentInvalid, BaseimgError
    from baseimg_core.linux.oserrors import translate_os_errors
    from baseimg_core.model import diagnosis
    from baseimg_core.model import metrics as model_metrics
    from baseimg_core.model import summary as short
    from baseimg_core.model.fixes import exposure
    from baseimg_core.model.fixes import products as fixes_products
    from baseimg_core.model.fixes import query as fixes_query
    from baseimg_core.model.fixes.fleet import Fleet
    from baseimg_core.model.policy import validation
    from baseimg_core.model.rollout import audit, mover, outcome, shapes
    from baseimg_core.model.rollout import bases as rollout_bases
    from baseimg_core.model.rollout import fleet as model_fleet
    from baseimg_core.model.rollout import metrics as rollout_metrics
    from baseimg_core.ops import doctor as ops_doctor
    from baseimg_core.ops import hold as ops_hold
    from baseimg_core.ops import public_file
    from baseimg_core.report.page import page
    from baseimg_core.rollout import watch as rollout_watch
    from baseimg_core.rollout.commands import Rollouts, check_master
    from baseimg_core.rollout.errors import MasterUnreachable
    from baseimg_core.rollout.fixes import CachedAnswers, VexStates
    from baseimg_core.rollout.fleet_query import FleetQuery
    from baseimg_core.rollout.mover import Mover
    from baseimg_core.rollout.node_ops import CLOCK_TOLERANCE, skew
    from baseimg_core.rollout.recorder import timestamp
    from baseimg_core.rollout.screen import Screen
    from baseimg_core.rollout.store import RolloutStore
    from baseimg_core.rollout.summaries import interruption, refusal
    from baseimg_core.rollout.transport import SaltTransport, returns_reader

    _MISSING = None
except ImportError as exc:
    _MISSING = str(exc)


def __virtual__():
    if _MISSING:
        return False, f"the runner baseimg cannot be loaded: {_MISSING} (needs its own _utils: saltutil.sync_all)"
    return __virtualname__


def _checked(function):
    """
    Refuse wrong arguments of a function in words.

    Salt prints the documentation of the function instead, with the exit code 0.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args, **kwargs):
        named = salt.utils.args.clean_kwargs(**kwargs)
        try:
            signature.bind(*args, **named)
        except TypeError as exc:
            error = validation.wrong_arguments(f"baseimg.{function.__name__}", list(signature.parameters), named, exc)
            return _failure(refusal(error) if function.__name__ in _ON_ROLLOUTS else {"retcode": 1}, error)
        try:
            return function(*args, **named)
        except (KeyboardInterrupt, SystemExit):  # on Ctrl-C and SIGTERM Salt raises the latter
            if not _from_command_line():
                raise
            error = interruption(f"baseimg.{function.__name__}")
            result = {"state": "interrupted", "retcode": outcome.INTERRUPTED}
            return _failure(result if function.__name__ in _ON_ROLLOUTS else {"retcode": 1}, error)

    del checked.__wrapped__  # Salt would look there for the arguments, and refuse some itself
    return checked


def _failure(result, error):
    """Return the result of a command that failed: one line with code and hint for a person, data for a program."""
    __context__["retcode"] = result["retcode"]  # for state.orchestrate
    if _for_person():
        return {"outputter": "txt", "data": {"error": str(error), "retcode": result["retcode"]}}
    return {**result, "error": error.as_dict()}


def _from_command_line():
    """True for a command line of ``salt-run``, from which ``__opts__`` comes."""
    return str(__opts__.get("fun", "")).startswith("baseimg.")


def _for_person():
    """True for a command line of ``salt-run`` without an output format."""
    return _from_command_line() and "output" not in __opts__


@_checked
def rollout(base, version=None, watch=False, **kwargs):
    """
    Apply a version of a base on the fleet: a canary, then wave after wave, with a gate after each.

    First every node prepares the version (``baseimg.prepare``), so that a wave needs no network and is one swap. An
    unreachable node counts as failed, unless ``unreachable`` is ``skip``. The master keeps the record: after a halt, a
    crash or a restart, continue with ``baseimg.resume``. Progress goes to stderr, and to the event bus below
    ``salt/baseimg/rollout/<id>/``.

    base
        The base's reference, as in the nodes' pillar. Pillar also declares the bundles. Several bases of a nest are
        separated by commas; each node changes those that it declares, in one job.

    version
        The version to apply; of several bases, their versions in the same order, separated by commas. Default: the
        version that every node's pillar declares.

    watch
        True: start nothing, but follow the rollout of the base that another process drives, for example the engine, as
        :py:func:`baseimg.watch` does. Takes no policy. If the other process rolls out another version, this is an
        error (``rollout-busy``).

    All other arguments are keys of the policy. They override ``baseimg:rollout`` in the master's pillar, which
    overrides the same key in the master's configuration: ``target``, ``exclude``, ``unreachable``, ``refused``,
    ``canary``, ``waves``, ``success_threshold``, ``max_unavailable``, ``min_available``, ``group_by``, ``prepare``,
    ``prepare_at_once``, ``saltenv``, ``require``, ``soak``, ``gate``, ``gate_interval``, ``before_node``,
    ``after_node``, ``on_failure``, ``window``, ``windows``, ``timeout``, ``keep_records`` (docs/operating/rollout.md).

    Returns the rollout's ``id``, ``state``, ``reason`` and ``cause``; its ``waves``; counts of ``nodes`` by state; the
    ``failed``, ``refused``, ``unreachable`` and ``skipped`` nodes with reasons; and the ``retcode``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.rollout corp/base:12.0 "'12.1'" canary=1 waves="['10%', '50%']" soak=600 on_failure=rollback
    """

    def command(rollouts):
        if not validation.boolean(watch, "watch"):
            return rollouts.start(base, version, *_policies(kwargs))
        if policy := salt.utils.args.clean_kwargs(**kwargs):
            raise validation.wrong("watch", watch, f"no policy beside it: {', '.join(policy)}")
        return rollout_watch.attach(RolloutStore(__opts__["cachedir"]), base, version, Screen(sys.stderr))

    return _run(command)


@_checked
def plan(base, version=None, **kwargs):
    """
    Show the waves of a rollout and the change on each node. Changes nothing.

    base, version
        As for :py:func:`baseimg.rollout`. Keys of the policy are also accepted.

    At most 20 nodes that together have all images fetch the bundles into their cache and judge the images
    (``baseimg.impact``).

    Returns the ``waves`` with their nodes; ``max_unavailable`` as a number of nodes; the ``blast_radius``: number of
    ``nodes``, number of nodes for each of the ``images`` on the base, number of running ``containers`` on it,
    ``judged``, a line about the judgement that is attached to the bundle (``baseimg.judgement`` of one node),
    ``packages`` that change, ``fixes`` (advisory → packages with both versions) and ``unread`` (packages whose
    changelogs the builder could not read), ``verdicts`` (number of images by verdict), ``breaks`` (image → verdict and
    reason),
    ``refusals`` and ``not_judged`` (node → reason) of the nodes in ``judged_on``, ``bytes_per_node`` and ``bytes`` to
    fetch, and the expected ``seconds`` by the rates of an earlier rollout (``rates_of``), without closed windows; the
    ``skipped``, ``failed`` and ``unreachable`` nodes with reasons; the nodes whose pillar declares another version
    (``declare_another_version``); and the complete ``policy``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.plan corp/base:12.0 canary=1
    """
    return _run(lambda rollouts: rollouts.plan(base, version, *_policies(kwargs)))


@_checked
def resume(id=None, only=None):
    """
    Resume rollouts that were halted or whose process ended.

    First the outcomes of nodes that were applying are resolved. Failed and unreachable nodes are retried. A rollback in
    progress continues as a rollback.

    id
        The rollout's ID, or its base. Default: every unfinished rollout, one after the other.

    only
        ``window``: resume only rollouts that a closed window halted, and succeed if there are none. For Salt's
        scheduler.

    Returns the same as :py:func:`baseimg.rollout`; for several rollouts, by ID under ``rollouts``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.resume
        salt-run baseimg.resume only=window
    """
    return _run(lambda rollouts: rollouts.resume(id, only))


@_checked
def retry(id):
    """
    Start a new rollout to the failed, refused and unreachable nodes of an earlier one, in one wave.

    id
        The earlier rollout's ID, or its base for the newest rollout.

    Returns the same as :py:func:`baseimg.rollout`, for the new rollout.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.retry 20261124T030000-1f3a
    """
    return _run(lambda rollouts: rollouts.retry(id))


@_checked
def halt(id=None):
    """
    Halt rollouts: no further node starts, and nodes that are applying finish. ``resume`` continues.

    id
        The rollout's ID, or its base. Default: every rollout in progress.

    Returns the same as :py:func:`baseimg.rollout`; for several rollouts, by ID under ``rollouts``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.halt
    """
    return _run(lambda rollouts: rollouts.halt(id))


@_checked
def rollback(id=None, since=None, nodes=None):
    """
    Roll back the changes of a rollout, on the nodes that it changed and on no other.

    An unreachable node is an error, and the reason names it. The nodes then hold the version, so that ``state.apply``
    does not apply it again while pillar still declares it. ``baseimg.unhold`` lifts the hold.

    id
        The rollout's ID, or its base, for the newest rollout that changed a node. Default: the only unfinished rollout,
        or, if that halted before it changed a node, the newest of its base that changed one; if none is unfinished, the
        newest rollout that changed a node. If several bases have one, the function lists them and changes nothing.

    since
        An ID or a time (ISO 8601). With a base as ``id``: roll back every rollout of the base since then.

    nodes
        A name or a list of names: roll back these nodes only. They leave the rollout as ``rolled-back``; its state and
        its other nodes do not change.

    Returns the same as :py:func:`baseimg.rollout`.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.rollback 20261124T030000-1f3a
        salt-run baseimg.rollback corp/base:12.0 since=2026-11-24
        salt-run baseimg.rollback 20261124T030000-1f3a nodes=web1
    """
    names = nodes.split(",") if isinstance(nodes, str) else nodes
    if names is not None:
        return _run(lambda rollouts: rollouts.roll_back_nodes(id, names, since))
    return _run(lambda rollouts: rollouts.roll_back(id, None if since is None else str(since)))


@_checked
def status(id=None):
    """
    Show a rollout with every node, or list all rollouts.

    id
        The rollout's ID, or its base, for the newest rollout. Default: list all rollouts.

    Returns the record, or the list. ``moved_by`` names the process that runs an unfinished rollout. If no process
    runs it, ``moved_by`` has the text ``nobody``. Then ``next`` lists the commands that continue the rollout.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.status
        salt-run baseimg.status 20261124T030000-1f3a --out=json
    """
    return _run(lambda rollouts: rollouts.status(id))


@_checked
def arrived(tag, id):
    """
    Converge a node that started or reported new images; for ``reactor/baseimg.sls``.

    tag
        The event's tag: ``salt/minion/<id>/start`` or ``salt/beacon/<id>/baseimg/arrived``. Any minion can send any
        event. So the tag must name the same minion as ``id``, and the master must have accepted the minion's key.

    id
        The minion's ID, from the event's data.

    A node in an unfinished rollout is left alone, because its wave determines when it changes. If the newest record of
    a base cannot be read, every node is left alone, with ``retcode`` 14.

    Returns the ID of the ``job`` that was sent (``state.apply baseimg``), or why the node was ``left``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.arrived salt/minion/web1/start web1
    """
    return _run(lambda rollouts: rollouts.arrived(tag, id))


@_checked
def hold(base, version, reason, until=None, tgt="*", tgt_type="glob", timeout=None):
    """
    Block a version of a base on nodes: ``baseimg.hold`` on each of them.

    base, version, reason, until
        As for the execution function ``baseimg.hold``.

    tgt, tgt_type, timeout
        As for :py:func:`baseimg.fleet`.

    Returns the names of the nodes that ``changed``, those that are ``unchanged`` (an equal hold exists), those
    ``without`` the base, ``unreachable`` nodes, ``failed`` (node → error), ``notes`` (note → nodes) if the version
    or the base may be misspelt, and ``retcode``: 1 if a node is unreachable or failed, or if no node has the base.
    The command can be repeated.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.hold corp/base:12.0 "'12.1'" reason='shop does not start'
        salt-run baseimg.hold corp/base:12.0 "'12.1'" reason='see ticket 7' until=2026-12-01 tgt='web*'
    """
    texts = {"base": base, "version": version, "reason": reason}

    def command():
        return _change_holds("baseimg.hold", texts, ops_hold.utc_time(until, "until"), tgt, tgt_type, timeout)

    return _answer(command)


@_checked
def unhold(base, version=None, tgt="*", tgt_type="glob", timeout=None):
    """
    Lift the hold on a version of a base, or all holds of the base, on nodes: ``baseimg.unhold`` on each of them.

    base, version
        As for the execution function ``baseimg.unhold``.

    tgt, tgt_type, timeout
        As for :py:func:`baseimg.fleet`.

    Returns the same as :py:func:`baseimg.hold`.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.unhold corp/base:12.0 "'12.1'"
    """
    texts = {"base": base} if version is None else {"base": base, "version": version}
    return _answer(lambda: _change_holds("baseimg.unhold", texts, "", tgt, tgt_type, timeout))


@_checked
def doctor(tgt="*", tgt_type="glob", timeout=None):
    """
    Check whether the fleet is ready for a rollout.

    It runs ``baseimg.doctor`` on every node, and checks the nodes' clocks against the master's, and the master's job
    cache and top files. It changes nothing.

    tgt, tgt_type, timeout
        As for :py:func:`baseimg.fleet`.

    ``salt-run`` without ``--out`` prints the number of nodes that are ready, and one line for each finding: node,
    level, subject, code, finding, and the command that mends it. Otherwise the function returns data: ``format``,
    ``ready``, ``nodes`` (their number), ``checks`` (node → findings; the master's under an empty name),
    ``unreachable``, ``failed`` (node → error), and ``retcode``: 1 if a node or the master is not ready.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.doctor
        salt-run baseimg.doctor 'web*' --out=json
    """

    def command():
        sent = time.time()
        expected, answers = _ask(tgt, tgt_type, timeout, "baseimg.doctor", full=True)
        received = time.time()

        def too_much(clock):
            seconds = skew(clock, sent, received)
            return seconds if seconds > CLOCK_TOLERANCE else 0

        findings = diagnosis.fleet(expected, answers, _master_checks(), too_much)
        return {**findings, "retcode": 0 if findings["ready"] else diagnosis.NOT_READY}

    return _answer(command, diagnosis.table)


def _master_checks():
    """Return the checks of this master: its job cache, and top files beside ours."""
    try:
        check_master(__opts__)
        checks = []
    except BaseimgError as exc:
        checks = [diagnosis.Check("job cache", diagnosis.FAILED, exc.message, exc.code, exc.hint)]
    return [*checks, *ops_doctor.check_top_files(__opts__["file_roots"])]


@_checked
def fleet(tgt="*", tgt_type="glob", timeout=None):
    """
    Show the fleet: versions of each base, drift, outdated containers, unreachable nodes.

    tgt, tgt_type
        Target, as for ``salt``; ``tgt_type`` is ``glob``, ``grain``, ``compound``, ``list``, ….

    timeout
        Seconds to wait for an answer. Default: the master's ``timeout``. A node that still runs the job is not timed
        out.

    A node is expected if the target matches it and the master has accepted its key. An expected node that does not
    answer is ``unreachable``. The master checks which of the silent nodes are connected, and does not wait for the
    others. ``cached`` has the versions that unreachable nodes last reported in their grains, and their ``age``.

    ``salt-run`` without ``--out`` prints a table. With ``--out=json``, in orchestration and over the API, the function
    returns data: ``format``; the counts ``nodes`` and ``answered``; ``unreachable``, ``failed``, ``without`` (nodes
    without a base) and ``unreadable`` (broken records by node). Under ``bases``, for each base: ``versions`` (nodes of
    each version), ``behind`` (nodes whose version is not the declared version), ``held`` (held versions with reasons by
    node), ``drifted`` (reasons by node), and ``outdated`` and ``unknown`` (containers by node). A target that matches
    no minion is an error.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.fleet
        salt-run baseimg.fleet 'web*' --out=json
        salt-run baseimg.fleet 'baseimg:drifted:*' tgt_type=grain
    """

    def command():
        expected, answers = _ask(tgt, tgt_type, timeout, "baseimg.status", declared=True, full=True)
        cached = _cached_facts(set(expected) - answers.keys())
        return model_fleet.collect(expected, answers, baseimg_core.__version__, cached)

    return _answer(command, model_fleet.table)


@_checked
def exposed(advisory=None, package=None, max_age=3600, tgt="*", tgt_type="glob", timeout=None):
    """
    Show the nodes, images and containers in which a fix is not in effect, grouped by what to do.

    advisory
        The ID of an advisory: ``CVE-2024-5535``, or another ID that a bundle names.

    package
        Instead: a package and the first version that is not affected, ``'openssl<3.0.15-1~deb12u1'``. Every node is
        asked then.

    max_age
        Seconds that an answer in the mine (``mine_functions: baseimg.fixes``) may be old. Nodes without a fresh one,
        and nodes whose cached grains show another version of a base, are asked. 0 asks all nodes.

    tgt, tgt_type, timeout
        As for :py:func:`baseimg.fleet`.

    ``salt-run`` without ``--out`` prints text. Otherwise the function returns data: ``query``; ``known`` (false if no
    bundle names the advisory); ``fixed`` (numbers of ``images`` and ``containers``); ``groups``, each with ``state``,
    ``base``, what to ``do``, ``nodes`` and ``items``; ``nodes`` (their number); ``silent`` (node → why nothing, or not
    everything, is known of it); ``cached`` (number of ``nodes``, and the age of the ``oldest`` answer in seconds); and
    ``retcode``: 0 if no image and no container is exposed and all nodes answered, 20 if one is exposed, 21 if that is
    not certain.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.exposed CVE-2024-5535
        salt-run baseimg.exposed package='openssl<3.0.15-1~deb12u1' --out=json
    """

    def command():
        query = fixes_query.parse(advisory, package)
        names = [query.package] if query.package else None
        facts, expected, ages = _fixes(tgt, tgt_type, timeout, 0 if names else max_age, names)
        return exposure.as_dict(query, exposure.answer(facts, query), facts, expected, ages)

    return _answer(command, exposure.table)


@_checked
def sbom(node, name, path=None, timeout=None):
    """
    Make an SBOM of what an image or a container really shows on a node: CycloneDX 1.6, from the node's facts. Needs the
    Python packages ``cyclonedx-python-lib`` and ``packageurl-python`` on the master.

    node
        The minion.

    name
        Reference or ID of an image, or name or ID of a container.

    path
        Absolute path of the file, which is replaced atomically and is world-readable. Default: return the document.

    timeout
        As for :py:func:`baseimg.fleet`.

    Returns the document (``baseimg.sbom`` on the node explains it); with ``path``, the ``path`` and the number of
    ``bytes``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.sbom web1 corp/app:1 path=/srv/sbom/web1-app.cdx.json
    """

    def command():
        public_file.check_path(path)
        validation.text(node, "node")
        try:
            from baseimg_core.report import sbom as report_sbom
        except ImportError as exc:
            hint = "salt-pip install cyclonedx-python-lib packageurl-python"
            raise ArgumentInvalid(f"documents cannot be made: {exc}", hint) from exc
        facts = _ask([node], "list", timeout, "baseimg.sbom", name, facts=True)[1].get(node)
        document = report_sbom.document(shapes.sbom(facts), node, baseimg_core.__version__)
        if path is None:
            return document
        return public_file.write(path, json.dumps(document, indent=1) + "\n")

    return _answer(command)


@_checked
def vex(path=None, author=None, id=None, max_age=3600, timeout=None):
    """
    Write an OpenVEX 0.2 document about the fleet: which advisory matters in which image, on the nodes of this master.

    A fix that is in effect on every node is ``not_affected``, with a statement that says "on the nodes of this fleet
    only"; never ``fixed``, because the image's digest still has the old files. ``affected`` has what to do.
    ``under_investigation`` means that the state is not certain. If a node does not answer, it replaces ``not_affected``
    everywhere (docs/operating/scanners.md). Needs the Python package ``packageurl-python`` on the master.

    path
        Absolute path of the file, which is replaced atomically and is world-readable. Default: return the document.

    author
        The author. Default: ``baseimg:vex:author`` in the master's configuration.

    id
        The IRI of the document. Default: ``baseimg:vex:id`` in the master's configuration, else a UUID made from the
        master's ID.

    max_age, timeout
        As for :py:func:`baseimg.exposed`.

    The master keeps the last document. If nothing changed, it is returned again. Otherwise the new document has the
    next ``version``, and unchanged statements keep their times and IDs.

    Returns the document; with ``path``, the ``path``, the number of ``bytes``, and the ``version``.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.vex path=/srv/www/fleet.openvex.json author='Corp security'
    """

    def command():
        public_file.check_path(path)
        head = _vex_head(author, id)
        facts, expected, _ages = _fixes("*", "glob", timeout, max_age)
        document = _vex(facts, expected, head, VexStates(__opts__["cachedir"], head["id"]))
        if path is None:
            return document
        return {**public_file.write(path, json.dumps(document) + "\n"), "version": document["version"]}

    return _answer(command)


def _vex_head(author, id):
    """Return the head of the VEX document, from arguments and the master's configuration."""
    options = __opts__.get("baseimg")
    declared = options.get("vex") if isinstance(options, dict) else None
    declared = validation.fields(declared or {}, frozenset({"author", "id"}), "baseimg:vex", "a mapping")
    author, identity = author or declared.get("author"), id or declared.get("id")
    validation.text(author, "author")
    identity = identity or f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_DNS, str(__opts__['id']))}"
    if ":" not in validation.text(identity, "id"):
        raise validation.wrong("id", identity, "an IRI, such as https://security.corp/vex/fleet")
    return {"author": author, "id": identity, "tooling": f"baseimg {baseimg_core.__version__}"}


def _vex(facts, expected, head, states):
    """Return the next VEX document, and keep its state."""
    try:
        from baseimg_core.report import vex as report_vex
    except ImportError as exc:
        raise ArgumentInvalid(f"documents cannot be made: {exc}", "salt-pip install packageurl-python") from exc
    stated, before = fixes_products.statements(facts), states.read()
    document = report_vex.document(stated, _silent(facts, expected), head, now(), before)
    states.write(report_vex.state(document))
    return document


def _silent(facts, expected):
    """Return the nodes of which nothing, or not everything, is known, with the reason."""
    absent = {node: "did not answer" for node in expected if node not in facts.answered}
    return {**absent, **facts.silent}


def _fixes(tgt, tgt_type, timeout, max_age, packages=None):
    """Return what is known of fixes on nodes, the expected nodes, and the ages of the answers from the mine."""
    age = validation.number(max_age, "max_age", "seconds, 0 or more")
    expected = sorted(_match(tgt, tgt_type))
    cached, facts, ages = CachedAnswers(salt.cache.factory(__opts__), time.time()), Fleet(), {}
    for node in expected if age else ():
        if fresh := cached.read(node, age):
            facts.add(node, fresh[0])
            ages[node] = fresh[1]
    if stale := [node for node in expected if node not in ages]:
        named = {"full": True, **({"packages": packages} if packages else {})}
        for node, answer in _ask(stale, "list", timeout, "baseimg.fixes", **named)[1].items():
            facts.add(node, answer)
    return facts, expected, ages


def _cached_facts(nodes):
    """Return the age in seconds and the grain ``baseimg`` from the master's cache, for the nodes that it has."""
    cache, facts = salt.cache.factory(__opts__), {}
    for node in nodes:
        grains = salt.utils.minions.get_minion_data(node, __opts__)[1]
        bank = ("grains", node) if cache.contains("grains", node) else (f"minions/{node}", "data")  # before Salt 3008
        if grains and (written := cache.updated(*bank)):
            facts[node] = (max(time.time() - written, 0), grains.get("baseimg"))
    return facts


@_checked
def report(path, rollout=None, tgt="*", tgt_type="glob", timeout=None):
    """
    Write a report on the fleet: one HTML file that needs no network and no server.

    The report shows nodes by version, failures with reasons, the impact of a new base on each application image,
    packages, the fixes by advisory, and the waves of a rollout.

    path
        Absolute path of the file. It is replaced atomically and is world-readable.

    rollout
        The ID of the rollout to show. Default: the report shows no rollout.

    tgt, tgt_type, timeout
        As for :py:func:`baseimg.fleet`.

    ``baseimg.impact`` runs on a small set of nodes, at most 20 for each base, that together have all images.

    Returns ``path``, ``bytes``, the number of ``nodes``, the names of ``unreachable`` nodes, and the names of nodes
    that were ``asked`` for the impact.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.report path=/srv/www/baseimg.html
        salt-run baseimg.report path=/srv/www/baseimg.html rollout=20261124T030000-1f3a
    """

    def command():
        public_file.check_path(path)
        record = None if rollout is None else _record(rollout)
        expected, answers = _ask(tgt, tgt_type, timeout, "baseimg.status", declared=True, full=True)
        summary = model_fleet.collect(expected, answers, baseimg_core.__version__)
        bases = rollout_bases.split(record["base"]) if record else list(summary["bases"])
        known = _fixes(sorted(answers), "list", timeout, _REPORT_AGE)[0] if answers else Fleet()
        fixes = fixes_products.statements(known), _silent(known, expected)
        sound = {node: answer for node, answer in answers.items() if node not in summary["failed"]}
        impacts = [impact for base in bases for impact in _impacts(base, sound, timeout)]
        written = public_file.write(path, page(summary, now(), record, impacts, fixes))
        asked = sorted({impact["node"] for impact in impacts})
        counts = {"nodes": summary["nodes"], "unreachable": summary["unreachable"]}
        return {**written, **counts, "asked": asked}

    return _answer(command)


@_checked
def declared():
    """
    Show the rollouts that the master's pillar declares (``baseimg:rollouts``). Asks no node.

    Returns ``rollouts``, by base: ``version``, ``state`` (that of the newest record, ``not-started``,
    ``waiting-for-window``, or ``stalled``: a person must act), ``reason``, ``rollout`` (the record's ID), and ``step``:
    what the engine does next (``start``, ``resume``, ``late``, or nothing).

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.declared
    """
    return _answer(lambda: {"rollouts": _mover().survey(), "retcode": 0})


@_checked
def move(base):
    """
    Take the next step of a rollout that the master's pillar declares, and run it until it ends or halts. The engine
    ``baseimg`` calls this function.

    base
        The base's reference, as in ``baseimg:rollouts``.

    Returns the same as :py:func:`baseimg.rollout`; ``state``, ``reason`` and ``retcode`` if there was nothing to do.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.move corp/base:12.0
    """
    return _run(lambda rollouts: _mover().move(rollouts, base))


@_checked
def watch(id=None):
    """
    Follow a rollout that another process drives, until it ends or halts. Ctrl-C ends the watch, not the rollout.

    id
        The rollout's ID, or its base. Default: the newest rollout.

    Returns the same as :py:func:`baseimg.rollout`.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.watch
    """
    return _answer(lambda: rollout_watch.watch(RolloutStore(__opts__["cachedir"]), id, Screen(sys.stderr)))


@_checked
def metrics(path=None):
    """
    Write metrics of rollouts for Prometheus: the newest rollout of each base, its nodes and waves by state, and whether
    a process drives it.

    path
        The file to write for node_exporter's textfile collector: an absolute path that ends in ``.prom``. The file is
        replaced atomically and is world-readable. Default: return the text.

    Returns the text, or the ``path`` and the number of ``bytes`` written.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.metrics
        salt-run baseimg.metrics path=/var/lib/prometheus/node-exporter/baseimg-rollouts.prom
    """

    def command():
        public_file.check_path(path, ".prom")
        store = RolloutStore(__opts__["cachedir"])
        newest, errors = store.newest()
        driven = [(rollout, bool(store.driving_process(rollout.base))) for rollout in newest]
        text = model_metrics.render(rollout_metrics.of_rollouts(driven, len(errors), timestamp))
        if path is None:
            return {"text": text}
        return public_file.write(path, text)

    result = _answer(command)
    return result.get("text", result)


@_checked
def history(base, since=None, tgt="*", tgt_type="glob", timeout=None):
    """
    Export who changed a base, when and to what: the swaps of every node, and the rollouts of this master.

    base
        The base's reference or chain ID.

    since
        A time (ISO 8601, UTC): leave out what is older. Default: everything.

    tgt, tgt_type, timeout
        As for :py:func:`baseimg.fleet`.

    Returns ``swaps``, oldest first (``node``, ``at``, ``action``, ``by``, ``from``, ``to``, ``bundle``: its digest,
    ``signed_by``, ``id``); ``rollouts`` with the ``actions`` of users; the nodes that are ``unreachable``, ``without``
    the base, or ``failed``; ``notes`` (note → nodes) if the base may be misspelt; and ``retcode``: 1 if a node is
    unreachable or failed. The times are the nodes' own.

    CLI Example:

    .. code-block:: bash

        salt-run baseimg.history corp/base:12.0 --out=json
        salt-run baseimg.history corp/base:12.0 since=2026-11-01 --out=json
    """

    def command():
        validation.text(base, "base")
        moment = "" if since is None else ops_hold.utc_time(since, "since")
        rollouts = RolloutStore(__opts__["cachedir"]).of_base(base)
        return audit.collect(*_ask(tgt, tgt_type, timeout, "baseimg.history", base), rollouts, moment)

    return _answer(command)


def _change_holds(function, texts, until, tgt, tgt_type, timeout):
    """Run a function that changes holds on nodes, and sort the nodes by what it did."""
    for key, value in texts.items():
        validation.text(value, key)
    arguments = {**texts, "until": until} if until else texts
    return model_fleet.sort_holds(*_ask(tgt, tgt_type, timeout, function, **arguments))


def _run(command):
    """Run a command on this master's rollouts, and return its result; a refusal is a result, too."""
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
            result = command(Rollouts(transport, RolloutStore(__opts__["cachedir"]), gather, by))
    except BaseimgError as exc:
        return _failure(refusal(exc), exc)
    __context__["retcode"] = result.get("retcode", 0)  # for state.orchestrate
    return short.without_empty(dict(result)) if _for_person() else dict(result)


def _returns(client):
    """Return a function that reads a job's returns on some nodes from the job cache."""
    cache = __opts__["master_job_cache"]
    if cache != "local_cache":
        # other caches can only return all nodes
        return lambda jid, nodes: {
            node: data for node, data in client.returners[f"{cache}.get_jid"](jid).items() if node in set(nodes)
        }
    jobs = os.path.join(__opts__["cachedir"], "jobs")

    def directory(jid):
        """Return the directory of a job in the cache."""
        return salt.utils.jid.jid_dir(jid, jobs, __opts__["hash_type"])

    def load(data):
        """Deserialize a return. Raises ValueError."""
        try:
            return salt.payload.loads(data)
        except SaltDeserializationError as exc:
            raise ValueError(str(exc)) from exc

    return returns_reader(directory, load)


def _settings():
    """Return ``baseimg`` of the master's configuration, and of the pillar of the master's own ID."""
    pillar = __salt__["pillar.show_pillar"](__opts__["id"])
    if pillar.get("_errors"):
        raise ArgumentInvalid(f"cannot render the master's pillar: {pillar['_errors'][0]}")
    places = [place.get("baseimg") for place in (__opts__, pillar)]
    return [place if isinstance(place, dict) else {} for place in places]


def _policies(kwargs):
    """Return the parts of the policy; later parts override earlier ones."""
    return [*(place.get("rollout") for place in _settings()), salt.utils.args.clean_kwargs(**kwargs)]


def _mover():
    """Return the mover of the rollouts that pillar declares."""
    settings = _settings()
    rollouts = mover.parse(settings[-1].get("rollouts"))
    return Mover(RolloutStore(__opts__["cachedir"]), rollouts, [place.get("rollout") for place in settings])


def _record(name):
    """Return a rollout's record as plain data."""
    store = RolloutStore(__opts__["cachedir"])
    if name not in store.ids():
        raise validation.wrong("rollout", name, "an ID that 'salt-run baseimg.status' lists")
    return store.read(name).as_dict()


def _impacts(base, answers, timeout):
    """Query the impact of a new version on a few nodes that together have all images on a base."""
    nodes = model_fleet.cover(answers, base)
    impacts = _ask(nodes, "list", timeout, "baseimg.impact", base, full=True)[1] if nodes else {}
    return [{"node": node, "impact": shapes.impact(impacts.get(node, "did not answer"))} for node in nodes]


def _answer(command, table=None):
    """
    Run a command, and return its result for a program, or ``table`` of it for a person.

    An error is a result, too, instead of a traceback.
    """
    try:
        with translate_os_errors("a file of this master", "use"):
            result = command()
    except BaseimgError as exc:
        return _failure({"retcode": 1}, exc)
    __context__["retcode"] = result.get("retcode", 0)  # for state.orchestrate
    if not (_for_person() and table):
        return short.without_empty(result) if _for_person() else result
    text = table(result)
    if isinstance(text, dict):
        text["retcode"] = result["retcode"]  # salt-run takes its exit code from here, and never from a text
    return {"outputter": "txt", "data": text}


def _match(tgt, tgt_type):
    """Return the minions that a target matches. A target that matches no minion is an error."""
    matched = salt.utils.minions.CkMinions(__opts__).check_minions(tgt, tgt_type)
    if unknown := sorted(matched.get("missing", ())):
        raise validation.wrong("tgt", tgt, f"names of minions; unknown: {', '.join(unknown)}")
    if not matched["minions"]:
        raise validation.wrong("tgt", tgt, f"a target of type {tgt_type} that matches a minion")
    return matched["minions"]


def _ask(tgt, tgt_type, timeout, function, *arguments, **named):
    """
    Run a function on nodes; return the expected nodes, and the answers by node.

    A target that matches no minion is an error. A misspelt target must not look like a fleet without problems.
    """
    _match(tgt, tgt_type)
    with salt.client.get_local_client(mopts=__opts__) as client:
        try:
            sent = client.run_job(tgt, function, arguments, tgt_type, timeout=timeout, kwarg=named, listen=True)
            expected = sent.get("minions", [])
            target = {"timeout": timeout, "tgt": tgt, "tgt_type": tgt_type, "block": False}
            replies = client.get_iter_returns(sent["jid"], set(expected), **target) if expected else ()
            query = FleetQuery(expected, salt.utils.minions.CkMinions(__opts__).connected_ids, Screen(sys.stderr))
            answers = query.take(replies)
        except SaltClientError as exc:
            raise MasterUnreachable(
                f"cannot send {function} to nodes: {exc}", "start salt-master and run again"
            ) from exc
    return expected, answers
