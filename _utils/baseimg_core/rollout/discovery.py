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
from ..model.rollout import answers, bases
from ..model.rollout import policy as rollout_policy
from ..model.rollout import record as rollout_record
from ..model.rollout import waves as rollout_waves
from ..model.rollout.answers import AnswerInvalid, ContainerState, PlanAnswer, StatusAnswer
from ..model.rollout.fleet import first_names, natural
from ..model.rollout.policy import FailureDomain, RolloutPolicy
from ..model.rollout.record import AT_VERSION, FAILED, PENDING, SKIPPED, UNREACHABLE, UPDATED, Rollout, WaveRecord
from ..model.rollout.targets import Target
from .errors import RolloutEmpty
from .jobs import SILENT, Jobs, NodeAnswer
from .recorder import now
from .transport import SaltTransport

ASK_SECONDS = 600  # a query takes a node a second, but thousands request their pillar from the master at once
# fields of a declaration that are not sent: the version comes from the rollout, and the node reads the others itself
_NO_ARGUMENTS = {"name", "also", "version", "missing", "below", "impaired", "breaks", "ghosts", "require", "trial"}
#: Arguments of the other bases of a job; the node's pillar protects and accepts images of each base.
GOAL = frozenset({"name", "version", "bundles", "chain_id", "repair", "containers"})
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
        self._by_base: dict[str, dict[str, StatusAnswer]] = {}

    def ask(self, names: Iterable[str]) -> None:
        """
        Query the nodes' declaration of the base and their live version.

        A finished node becomes ``skipped``, or ``updated`` if this rollout changed it. A node without an answer becomes
        ``unreachable``. The others become ``pending``.
        """
        rollout, pending = self._rollout, list[str]()
        for name, answer in self.query("baseimg.declared", self._refreshed(names), {}).items():
            declared = self._read(name, answer, self._declaration)
            if declared is None:
                continue
            if not declared:
                self._skip(name, NOT_DECLARED, f"its pillar declares no {rollout.base}")
                continue
            rollout.update(name, state=PENDING, code="", message="", declared=rollout.declare(declared))
            pending.append(name)
        statuses = self._query_bases("baseimg.status", pending, {"full": True})
        for name in pending:
            self._compare(name, statuses[name])
        if rollout.version:
            self.skip_finished()

    def _declaration(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Read the declarations of the rollout's bases in a node's pillar; empty if it has none of them."""
        self.declared_bases.update(str(name) for name in data)
        names = list(self._rollout.versions)
        declared = {name: answers.declaration(name)(data) for name in names}
        known = [{"name": name, **own} if len(names) > 1 else own for name, own in declared.items() if own]
        return _joined(known)

    def _query_bases(
        self, function: str, names: Iterable[str], arguments: Mapping[str, Any]
    ) -> dict[str, dict[str, NodeAnswer]]:
        """Query each base of each node; return the outcomes by node and base."""
        by_argument: dict[str, list[tuple[str, str]]] = {}
        outcomes: dict[str, dict[str, NodeAnswer]] = {name: {} for name in names}
        for name in outcomes:
            for base, declared in self._rollout.declarations(self._rollout.nodes[name]):
                by_argument.setdefault(declared["chain_id"] or base, []).append((name, base))
        for argument, asked in by_argument.items():
            answered = self.query(function, dict(asked), {"base": argument, **arguments})
            for name, base in asked:
                outcomes[name][base] = answered[name]
        return outcomes

    def skip_finished(self) -> None:
        """Skip pending nodes that are finished: the version is live, and nothing is left to do."""
        rollout = self._rollout
        self._refuse_held()
        candidates = []
        for name in rollout.in_state(PENDING):
            statuses, versions = self._by_base.get(name, {}), rollout.versions
            if statuses and all(
                statuses[base].version == versions[base]
                and (
                    not statuses[base].bundle
                    or declared["bundles"].get(versions[base], {}).get("hash") in (None, statuses[base].bundle)
                )
                for base, declared in rollout.declarations(rollout.nodes[name])
            ):
                candidates.append(name)
        for name, planned in self.plans(candidates).items():
            if not planned.open:
                self.finish(name)

    def _refuse_held(self) -> None:
        """Fail pending nodes with a hold on the version: they refuse it."""
        rollout = self._rollout
        for name in rollout.in_state(PENDING):
            for base, status in self._by_base.get(name, {}).items():
                version = rollout.versions[base]
                if status.version == version or version not in status.holds:
                    continue
                message = f"{version} is held: {status.holds[version]}"
                rollout.update(name, state=FAILED, code=HELD, message=message, failure=f"[{HELD}] {message}")

    def finish(self, name: str) -> None:
        """Set a finished node to ``updated`` if this rollout sent it an apply, else to ``skipped``."""
        if self._rollout.nodes[name].started:
            self._rollout.update(name, state=UPDATED, code="", message="", ended=now())
        else:
            self._skip(name, AT_VERSION, f"shows {self._rollout.target(self._rollout.nodes[name])} already")

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
        containers: dict[str, dict[str, ContainerState]] = {}
        for name, outcomes in self._query_bases("baseimg.containers", names, {}).items():
            with contextlib.suppress(AnswerInvalid):
                states = [answers.read(answers.containers, each.data, __version__) for each in outcomes.values()]
                containers[name] = {key: state for own in states for key, state in own.items()}
        return containers

    def group(self) -> None:
        """Query the nodes' failure domain: the value of the grain ``group_by``."""
        grain = self._rollout.parsed_policy.group_by
        nodes = self._rollout.nodes.items()
        names = [name for name, node in nodes if node.state not in rollout_record.LEFT_OUT or node.code == AT_VERSION]
        if not grain or not names:
            return
        for name, answer in self.query("grains.get", names, {"key": grain}).items():
            if answer.data is not None:
                self._rollout.update(name, group=printable(answer.data, 100))

    def query(self, function: str, names: Iterable[str], arguments: Mapping[str, Any]) -> dict[str, NodeAnswer]:
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

    def _read(self, name: str, answer: NodeAnswer, reader: Any) -> Any:
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

    def _compare(self, name: str, outcomes: Mapping[str, NodeAnswer]) -> None:
        """Record a node's live version. Absent bases are left out if that is acceptable; without any, skip the node."""
        rollout, node = self._rollout, self._rollout.nodes[name]
        statuses, present, absent = dict[str, StatusAnswer](), list[dict[str, Any]](), ""
        for base, declared in rollout.declarations(node):
            answer = outcomes[base]
            if answer.code == ABSENT and declared["missing"] == "ok":
                absent = answer.message
                continue
            status = self._read(name, answer, answers.status)
            if status is None:
                return
            statuses[base] = status
            present.append({key: value for key, value in declared.items() if key != "also"})
        if not statuses:
            self._skip(name, ABSENT, absent)
            return
        joined = answers.joined(list(statuses.values()))
        self._by_base[name], self.statuses[name] = statuses, joined
        rollout.update(name, declared=rollout.declare(_joined(present)))
        if not node.started:  # a rollback returns to the version before this rollout
            rollout.update(name, from_version=joined.version, bundle=joined.bundle)

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
        rules = rollout.parsed_policy
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


def _targets(rules: RolloutPolicy) -> list[Target]:
    return [wave.who for wave in rules.waves if isinstance(wave.who, Target)]


def _divide(rollout: Rollout, rules: RolloutPolicy, matched: Mapping[Target, set[str]]) -> None:
    """Make the waves, and assign nodes to them. Raises :class:`RolloutEmpty` if a wave matches no node."""
    rollout.waves += [WaveRecord(wave.name, wave.threshold) for wave in rules.waves]
    busy = [name for name, node in rollout.nodes.items() if node.state not in rollout_record.LEFT_OUT]
    members = {*busy, *(name for name in rollout.in_state(SKIPPED) if rollout.nodes[name].code == AT_VERSION)}
    for wave in rules.waves:
        if isinstance(wave.who, Target) and not members & matched[wave.who]:
            raise RolloutEmpty(f"the wave {wave.name!r} ({wave.who.tgt}) matches no node of the rollout")
        if isinstance(wave.who, FailureDomain) and not any(
            rollout.nodes[name].group == wave.who.name for name in members
        ):
            raise RolloutEmpty(f"no node of the rollout is in the group of the wave {wave.name!r}")
    groups = {name: rollout.nodes[name].group for name in busy}
    for index, names in enumerate(rollout_waves.assign(rules, busy, matched, groups)):
        for name in names:
            rollout.update(name, wave=index, to_version=rollout.target(rollout.nodes[name]))


def _check_members(rollout: Rollout, discovery: Discovery) -> None:
    """Raise :class:`RolloutEmpty` if no node takes part, unless a node already has the version."""
    for base in rollout.versions if len(rollout.versions) > 1 else ():
        if not any(base in dict(rollout.declarations(node)) for node in rollout.nodes.values()):
            listed = ", ".join(sorted(discovery.declared_bases)[:5]) or "none"
            raise RolloutEmpty(f"no node's pillar declares {base}, or none has it", f"declared bases: {listed}")
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
        if any(declared["version"] != rollout.versions[base] for base, declared in rollout.declarations(node))
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
    rules = rollout.parsed_policy
    common: dict[str, Any] = {"saltenv": rules.saltenv} if rules.saltenv else {}
    if rules.require:  # nodes of older releases do not know this argument
        common["require"] = list(rules.require)
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(rollout.nodes[name].declared, []).append(name)
    jobs = []
    for group in groups.values():
        first, *others = [
            {"name": base, "version": rollout.versions[base], **_arguments(declared, keys)}
            for base, declared in rollout.declarations(rollout.nodes[group[0]])
        ]
        also = [{key: value for key, value in other.items() if key in GOAL} for other in others]
        arguments = {**first, **common, **({"also": also} if also else {})}
        if keys is None:
            arguments["full"] = True
        jobs.append((arguments, group))
    return jobs


def _arguments(declared: Mapping[str, Any], keys: Iterable[str] | None) -> dict[str, Any]:
    fields = declared.keys() - _NO_ARGUMENTS if keys is None else [key for key in keys if key in declared]
    return {key: declared[key] for key in fields}


def _joined(declarations: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the declarations of a node's bases as one: the first has the others under ``also``."""
    first, *also = declarations or [{}]
    return {**first, "also": also} if also else first


def fail(rollout: Rollout, name: str, answer: NodeAnswer, message: str = "") -> None:
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
    versions: dict[str, Counter[str]] = {base: Counter() for base in rollout.versions}
    for node in rollout.nodes.values():
        for base, declared in rollout.declarations(node):
            versions[base][declared["version"]] += 1
    for base, own in versions.items():
        if len(own) > 1:
            listed = ", ".join(f"{version} ({counted(count, 'node')})" for version, count in sorted(own.items()))
            of_base = "" if base == rollout.base else f" of {base}"
            raise ArgumentInvalid(
                f"no version is given, and nodes declare different ones{of_base}: {listed}; give version="
            )
    if not any(versions.values()):
        _check_members(rollout, discovery)
        nodes = [f"{name} [{node.code}] {node.message}" for name, node in rollout.nodes.items()]
        listed = f"{'; '.join(nodes[:3])}{' …' if len(nodes) > 3 else ''}"
        raise ArgumentInvalid(f"version is missing, and no node declares {rollout.base}: {listed}")
    return bases.join(next(iter(own), "") for own in versions.values())
