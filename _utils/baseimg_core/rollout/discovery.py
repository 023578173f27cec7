"""Discovery: the nodes of a rollout, their declared and live versions, before any change."""

from __future__ import annotations

import contextlib
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..display import counted, printable
from ..errors import ArgumentInvalid
from ..model.rollout import answers
from ..model.rollout import policy as rollout_policy
from ..model.rollout import record as rollout_record
from ..model.rollout import waves as rollout_waves
from ..model.rollout.answers import AnswerInvalid, ContainerState, PlanAnswer, StatusAnswer
from ..model.rollout.fleet import first_names, natural
from ..model.rollout.policy import Group, Policy
from ..model.rollout.record import AT_VERSION, FAILED, PENDING, SKIPPED, UNREACHABLE, UPDATED, Rollout, WaveRecord
from ..model.rollout.targets import Target
from .errors import RolloutEmpty
from .jobs import SILENT, Answer, Jobs
from .recorder import now
from .transport import SaltTransport

ASK_SECONDS = 600  # a query takes a node a second, but thousands request their pillar from the master at once
# fields of a declaration that are not sent: the version comes from the rollout, and the node reads the others itself
_NO_ARGUMENTS = {"version", "missing", "below", "impaired", "breaks", "ghosts", "require", "trial"}
NOT_DECLARED, ABSENT, HELD = "not-declared", "base-absent", "base-held"


@dataclass(frozen=True, slots=True)
class Request:
    """The parameters of a new rollout."""

    #: The base's reference.
    base: str
    #: The version to apply; ``None`` for the version that every node's pillar declares.
    version: str | None
    #: The merged policy, as data.
    policy: Mapping[str, Any]
    #: The user who starts the rollout.
    by: str
    #: The new rollout's ID.
    identity: str


class Discovery:
    """
    Queries to the nodes of one rollout, whose answers go into its record.

    A node is finished if its ``baseimg.plan`` has no step left: the version and its bundle match, no running container
    needs a restart by the declared policy, and no stopped container is due to be started. Skipping, resuming, the soak,
    the gate and the end of a rollout all use this definition.
    """

    def __init__(self, jobs: Jobs, rollout: Rollout) -> None:
        self._jobs, self._rollout = jobs, rollout
        #: References of bases that pillars declare, for the message about an unknown base.
        self.declared_bases: set[str] = set()
        #: Answers of ``baseimg.status`` by node.
        self.statuses: dict[str, StatusAnswer] = {}

    def ask(self, names: Iterable[str]) -> None:
        """
        Query the nodes' declaration of the base and their live version.

        A finished node becomes ``skipped``, or ``updated`` if this rollout changed it. A node without an answer becomes
        ``unreachable``. The others become ``pending``.
        """
        rollout = self._rollout
        by_base: dict[str, list[str]] = {}
        for name, answer in self.query("baseimg.declared", self._refreshed(names), {}).items():
            declared = self._read(name, answer, self._declaration)
            if declared is None:
                continue
            if not declared:
                self._skip(name, NOT_DECLARED, f"its pillar declares no {rollout.base}")
                continue
            rollout.update(name, state=PENDING, code="", message="", declared=rollout.declare(declared))
            by_base.setdefault(declared["chain_id"] or rollout.base, []).append(name)
        for base, group in by_base.items():
            for name, answer in self.query("baseimg.status", group, {"base": base, "full": True}).items():
                self._compare(name, answer)
        if rollout.version:
            self.skip_finished()

    def _declaration(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Read the declaration of the rollout's base; empty if the pillar has none."""
        self.declared_bases.update(str(name) for name in data)
        return answers.declaration(self._rollout.base)(data) or {}

    def skip_finished(self) -> None:
        """Skip pending nodes that are finished: the version is live, and nothing is left to do."""
        rollout = self._rollout
        self._refuse_held()
        candidates = []
        for name in rollout.in_state(PENDING):
            node = rollout.nodes[name]
            declared = rollout.declared[node.declared] if node.declared >= 0 else None
            if declared and name in self.statuses and self.statuses[name].version == rollout.version:
                digest = declared["bundles"].get(rollout.version, {}).get("hash")
                bundle = self.statuses[name].bundle
                if not bundle or digest in (None, bundle):
                    candidates.append(name)
        for name, planned in self.plans(candidates).items():
            if not planned.open:
                self.finish(name)

    def _refuse_held(self) -> None:
        """Fail pending nodes with a hold on the version: they refuse it."""
        rollout = self._rollout
        for name in rollout.in_state(PENDING):
            statuses = self.statuses.get(name)
            if statuses and statuses.version != rollout.version and rollout.version in statuses.holds:
                message = f"{rollout.version} is held: {statuses.holds[rollout.version]}"
                rollout.update(name, state=FAILED, code=HELD, message=message, failure=f"[{HELD}] {message}")

    def finish(self, name: str) -> None:
        """Set a finished node to ``updated`` if this rollout sent it an apply, else to ``skipped``."""
        if self._rollout.nodes[name].started:
            self._rollout.update(name, state=UPDATED, code="", message="", ended=now())
        else:
            self._skip(name, AT_VERSION, f"shows {self._rollout.version} already")

    def plans(self, names: Iterable[str]) -> dict[str, PlanAnswer]:
        """
        Query what a converge would change now.

        Args:
            names: nodes whose declaration is known.

        Returns:
            The plan of each node that answered. The others become failed or unreachable.
        """
        plans: dict[str, PlanAnswer] = {}
        for arguments, group in alike(self._rollout, names):
            for name, answer in self.query("baseimg.plan", group, arguments).items():
                planned = self._read(name, answer, answers.planned)
                if planned is not None:
                    plans[name] = planned
                    self._rollout.update(name, containers=list(planned.outdated))
        return plans

    def containers(self, names: Iterable[str]) -> dict[str, dict[str, ContainerState]]:
        """
        Query the containers on the base by ID.

        Args:
            names: nodes whose declaration is known.

        Returns:
            The containers of each node that answered. The others, for example of an older release, are absent.
        """
        rollout, by_base = self._rollout, dict[str, list[str]]()
        for name in names:
            declared = rollout.declared[rollout.nodes[name].declared]
            by_base.setdefault(declared["chain_id"] or rollout.base, []).append(name)
        containers: dict[str, dict[str, ContainerState]] = {}
        for base, group in by_base.items():
            for name, answer in self.query("baseimg.containers", group, {"base": base}).items():
                with contextlib.suppress(AnswerInvalid):
                    containers[name] = answers.read(answers.containers, answer.data, __version__)
        return containers

    def group(self) -> None:
        """Query the nodes' failure domain: the value of the grain ``group_by``."""
        grain = self._rollout.rules.group_by
        nodes = self._rollout.nodes.items()
        names = [name for name, node in nodes if node.state not in rollout_record.LEFT_OUT or node.code == AT_VERSION]
        if not grain or not names:
            return
        for name, answer in self.query("grains.get", names, {"key": grain}).items():
            if answer.data is not None:
                self._rollout.update(name, group=printable(answer.data, 100))

    def query(self, function: str, names: Iterable[str], arguments: Mapping[str, Any]) -> dict[str, Answer]:
        """
        Call a function on nodes, and wait for every outcome.

        Args:
            function: an execution function that changes nothing.
            names: the nodes.
            arguments: arguments by name.

        Returns:
            The outcomes by node.
        """
        return self._jobs.ask_all(function, sorted(names), arguments, ASK_SECONDS)

    def _read(self, name: str, answer: Answer, reader: Any) -> Any:
        """Return a valid answer. Otherwise mark the node as failed or unreachable, and return ``None``."""
        if answer.data is None:
            fail(self._rollout, name, answer)
            return None
        try:
            return answers.read(reader, answer.data, __version__)
        except AnswerInvalid as exc:
            fail_invalid(self._rollout, name, answer.function, exc)
            return None

    def _refreshed(self, names: Iterable[str]) -> list[str]:
        """Refresh the nodes' pillar, because minions cache it, and return the nodes that succeeded."""
        refreshed = []
        for name, answer in self.query("saltutil.refresh_pillar", names, {"wait": True}).items():
            if answer.data is True:
                refreshed.append(name)
            else:
                message = f"its pillar could not be refreshed: {answer.message or printable(answer.data, 100)}"
                fail(self._rollout, name, answer, message)
        return refreshed

    def _compare(self, name: str, answer: Answer) -> None:
        """Record a node's live version; skip the node if an absent base is acceptable."""
        rollout, node = self._rollout, self._rollout.nodes[name]
        if answer.code == ABSENT and rollout.declared[node.declared]["missing"] == "ok":
            self._skip(name, ABSENT, answer.message)
            return
        statuses = self._read(name, answer, answers.status)
        if statuses is None:
            return
        self.statuses[name] = statuses
        if not node.started:  # a rollback returns to the version before this rollout
            rollout.update(name, from_version=statuses.version, bundle=statuses.bundle)

    def _skip(self, name: str, code: str, message: str) -> None:
        self._rollout.update(name, state=SKIPPED, code=code, message=message)


def new_rollout(transport: SaltTransport, jobs: Jobs, request: Request) -> tuple[Rollout, Discovery]:
    """
    Make the record of a new rollout, with every node in its wave or skipped.

    Changes nothing on the master or on nodes, and does not save the record.

    Args:
        transport: the master.
        jobs: the master's jobs.
        request: base, version and policy.

    Returns:
        The record, and the discovery with the nodes' answers.

    Raises:
        ArgumentInvalid: no version was given, and the nodes do not all declare the same one; or ``min_available`` lets
            no node of a failure domain change.
        RolloutEmpty: no node takes part, or a declared wave matches no node.
    """
    rules = rollout_policy.parse(request.policy)
    excluded = {name for target in rules.exclude for name in transport.match(target)}
    names = sorted(transport.match(rules.target) - excluded)
    if not names:
        raise RolloutEmpty(f"the target {rules.target.tgt} matches no minion")
    nodes = {name: rollout_record.RolloutNode(-1) for name in names}
    rollout = Rollout(
        request.identity, request.base, request.version or "", request.by, now(), dict(request.policy), [], nodes
    )
    discovery = Discovery(jobs, rollout)
    discovery.ask(nodes)
    if request.version is None:
        rollout.set(version=_declared_version(rollout, discovery))
        discovery.skip_finished()
    if rules.unreachable == rollout_policy.SKIP:
        for name in rollout.in_state(UNREACHABLE):
            rollout.update(name, state=SKIPPED, declared=-1)
    discovery.group()
    _check_members(rollout, discovery)
    if rules.is_by_group:
        rollout.set(policy={**rollout.policy, "waves": _group_waves(rollout)})
        rules = rollout.rules
    _divide(rollout, rules, {target: transport.match(target) for target in _targets(rules)})
    _check_room(rollout)
    return rollout, discovery


def _check_room(rollout: Rollout) -> None:
    """Raise :class:`ArgumentInvalid` if the policy lets no node of a failure domain change."""
    if blocked := rollout.blocked_groups():
        names = first_names([group or "(no group)" for group in blocked])
        hint = "lower min_available, or exclude these nodes"
        raise ArgumentInvalid(f"rollout:min_available lets no node change in: {names}", hint)


def _group_waves(rollout: Rollout) -> list[dict[str, str]]:
    """Declare one wave for each failure domain, in natural order."""
    groups = {node.group for node in rollout.nodes.values() if node.state not in rollout_record.LEFT_OUT}
    return [{"group": group} for group in sorted(groups - {""}, key=natural)]


def _targets(rules: Policy) -> list[Target]:
    return [wave.who for wave in rules.waves if isinstance(wave.who, Target)]


def _divide(rollout: Rollout, rules: Policy, matched: Mapping[Target, set[str]]) -> None:
    """Make the waves, and assign nodes to them. Raises :class:`RolloutEmpty` if a wave matches no node."""
    rollout.waves += [WaveRecord(wave.name, wave.threshold) for wave in rules.waves]
    busy = [name for name, node in rollout.nodes.items() if node.state not in rollout_record.LEFT_OUT]
    members = {*busy, *(name for name in rollout.in_state(SKIPPED) if rollout.nodes[name].code == AT_VERSION)}
    for wave in rules.waves:
        if isinstance(wave.who, Target) and not members & matched[wave.who]:
            raise RolloutEmpty(f"the wave {wave.name!r} ({wave.who.tgt}) matches no node of the rollout")
        if isinstance(wave.who, Group) and not any(rollout.nodes[name].group == wave.who.name for name in members):
            raise RolloutEmpty(f"no node of the rollout is in the group of the wave {wave.name!r}")
    groups = {name: rollout.nodes[name].group for name in busy}
    for index, names in enumerate(rollout_waves.assign(rules, busy, matched, groups)):
        for name in names:
            rollout.update(name, wave=index, to_version=rollout.version)


def _check_members(rollout: Rollout, discovery: Discovery) -> None:
    """Raise :class:`RolloutEmpty` if no node takes part, unless a node already has the version."""
    if rollout.total:
        return
    codes = Counter(node.code for node in rollout.nodes.values())
    if codes[AT_VERSION]:
        return
    if codes[NOT_DECLARED] == len(rollout.nodes):
        known = sorted(discovery.declared_bases)
        likely = difflib.get_close_matches(rollout.base, known, 1)
        hint = f"did you mean {likely[0]}? " if likely else ""
        listed = ", ".join(known[:5]) or "none"
        raise RolloutEmpty(f"no node's pillar declares {rollout.base}", f"{hint}declared bases: {listed}")
    reasons = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    raise RolloutEmpty(f"no node takes part in a rollout of {rollout.base}: {reasons}")


def contradictions(rollout: Rollout) -> list[str]:
    """Return nodes whose pillar declares another version, which their next ``state.apply`` applies."""
    return [
        name
        for name, node in sorted(rollout.nodes.items())
        if node.declared >= 0 and rollout.declared[node.declared]["version"] != rollout.version
    ]


def alike(
    rollout: Rollout, names: Iterable[str], keys: Iterable[str] | None = None
) -> list[tuple[dict[str, Any], list[str]]]:
    """
    Group nodes by declaration: nodes with the same declaration get the same job.

    Args:
        rollout: the record.
        names: nodes whose declaration is known.
        keys: declared fields that the job needs; ``None`` for all arguments of ``baseimg.converge``.

    Returns:
        (arguments, nodes) of each job.
    """
    rules = rollout.rules
    common: dict[str, Any] = {"saltenv": rules.saltenv} if rules.saltenv else {}
    if rules.require:  # nodes of older releases do not know this argument
        common["require"] = list(rules.require)
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(rollout.nodes[name].declared, []).append(name)
    jobs = []
    for number, group in groups.items():
        declared = rollout.declared[number]
        fields = declared.keys() - _NO_ARGUMENTS if keys is None else [key for key in keys if key in declared]
        arguments = {
            "name": rollout.base,
            "version": rollout.version,
            **{key: declared[key] for key in fields},
            **common,
        }
        if keys is None:
            arguments["full"] = True
        jobs.append((arguments, group))
    return jobs


def fail(rollout: Rollout, name: str, answer: Answer, message: str = "") -> None:
    """
    Record a node's failure.

    Args:
        rollout: the record.
        name: the node.
        answer: an outcome that is an error; silence makes the node unreachable.
        message: replaces the answer's message if not empty.
    """
    state = UNREACHABLE if answer.kind == SILENT else FAILED
    code, message = answer.code or "node-error", message or answer.message
    rollout.update(name, state=state, code=code, message=message, failure=f"[{code}] {message}")


def fail_invalid(rollout: Rollout, name: str, function: str, cause: AnswerInvalid) -> None:
    """
    Record that a node's answer is invalid.

    Args:
        rollout: the record.
        name: the node.
        function: the function that returned the answer.
        cause: the defect.
    """
    message = f"{function}: {cause}"
    rollout.update(name, state=FAILED, code=answers.INVALID, message=message, failure=f"[{answers.INVALID}] {message}")


def _declared_version(rollout: Rollout, discovery: Discovery) -> str:
    """Return the version that all nodes declare. Raises :class:`ArgumentInvalid` for none or several."""
    versions: Counter[str] = Counter(
        rollout.declared[node.declared]["version"] for node in rollout.nodes.values() if node.declared >= 0
    )
    if len(versions) > 1:
        listed = ", ".join(f"{version} ({counted(count, 'node')})" for version, count in sorted(versions.items()))
        raise ArgumentInvalid(f"version is missing, and nodes declare several: {listed}")
    if not versions:
        _check_members(rollout, discovery)
        nodes = [f"{name} [{node.code}] {node.message}" for name, node in rollout.nodes.items()]
        listed = f"{'; '.join(nodes[:3])}{' …' if len(nodes) > 3 else ''}"
        raise ArgumentInvalid(f"version is missing, and no node declares {rollout.base}: {listed}")
    return next(iter(versions))
