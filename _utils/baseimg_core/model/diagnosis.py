"""The checks of ``baseimg.doctor``, as lines for people and as data for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..display import printable
from .rollout import shapes

FORMAT = 1
OK, WARNING, FAILED = "ok", "warning", "failed"
#: The exit code of a node or a master that is not ready.
NOT_READY = 1
_LINE = 2000  # maximum length of a line, in characters
_REASON = 300  # maximum length of a node's error, in characters


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    #: The object of the check: ``engine``, ``clock``.
    subject: str
    #: ``ok``, ``warning`` (baseimg works, with a limit) or ``failed``.
    level: str
    #: The finding, in words.
    message: str
    #: The stable code of a warning or a failure; empty for ``ok``.
    code: str = ""
    #: The command that mends it; empty for ``ok``.
    command: str = ""

    @property
    def line(self) -> str:
        """The check in one line."""
        code = f"[{self.code}] " if self.code else ""
        command = f" -- {self.command}" if self.command else ""
        message = " ".join(self.message.split("\n"))
        return printable(f"{self.level:7} {self.subject}: {code}{message}{command}", _LINE)


def is_ready(checks: Iterable[Check]) -> bool:
    """Return True if no check failed."""
    return all(check.level != FAILED for check in checks)


def as_dict(checks: Iterable[Check]) -> dict[str, Any]:
    """Return checks as data: ``format``, ``ready`` and ``checks``, in their order."""
    listed = list(checks)
    return {"format": FORMAT, "ready": is_ready(listed), "checks": [asdict(check) for check in listed]}


def lines(checks: Iterable[Check]) -> list[str]:
    """Return one line for each check, the failures first, then the warnings."""
    order = (FAILED, WARNING, OK)
    return [check.line for check in sorted(checks, key=lambda check: order.index(check.level))]


def fleet(
    expected: Iterable[str], answers: Mapping[str, Any], master: Iterable[Check], skew: Callable[[float], float]
) -> dict[str, Any]:
    """
    Aggregate the nodes' answers to ``baseimg.doctor full=True``.

    Args:
        expected: Names of the nodes that should answer.
        answers: The function's return by node, or the error that replaced it.
        master: The checks of the master.
        skew: Returns the seconds by which a node's time differs too much from the master's; 0 if it does not.

    Returns:
        ``format``, ``ready``, ``nodes`` (their number), ``checks`` (node -> checks that are not ``ok``; the master's
        under an empty name), ``unreachable`` (names), and ``failed`` (node -> the error of the function; with the code
        ``answer-invalid`` if the answer has another shape).
    """
    names = sorted({*expected, *answers})
    result: dict[str, Any] = {"format": FORMAT, "ready": False, "nodes": len(names), "checks": {}, "failed": {}}
    result["unreachable"] = [name for name in names if name not in answers]
    result["checks"][""] = [asdict(check) for check in master if check.level != OK]
    for name in names:
        if name not in answers:
            continue
        try:
            checks = _checks(answers[name])
        except Exception as exc:  # no answer may fail more than its own node
            error = isinstance(answers[name], str)
            result["failed"][name] = printable(answers[name], _REASON) if error else shapes.invalid(exc)
            continue
        if seconds := skew(answers[name]["time"]):
            message = f"differs from the master's by {seconds:.0f} s; a rollout refuses the node"
            checks.append(Check("clock", FAILED, message, "clock-skewed", "timedatectl set-ntp true"))
        result["checks"][name] = [asdict(check) for check in checks if check.level != OK]
    result["checks"] = {name: checks for name, checks in result["checks"].items() if checks}
    failing = any(check["level"] == FAILED for checks in result["checks"].values() for check in checks)
    result["ready"] = not (failing or result["failed"] or result["unreachable"])
    return result


def _checks(answer: Any) -> list[Check]:
    """Return the checks of a node's answer. Raises :class:`~shapes.ShapeInvalid`."""
    shapes.check_doctor(answer)
    names = [field.name for field in fields(Check)]
    return [Check(**{name: printable(check[name], _LINE, "\n") for name in names}) for check in answer["checks"]]


def table(summary: Mapping[str, Any]) -> dict[str, str]:
    """
    Render the result of :func:`fleet` for Salt's outputter ``txt``, which prints the key before each line.

    Returns:
        The number of nodes that are ready under ``fleet``; then the lines of the master and of each node.
    """
    checks = {name: [Check(**check) for check in findings] for name, findings in summary["checks"].items()}
    for name in summary["unreachable"]:
        checks[name] = [Check("minion", FAILED, "did not answer", "node-unreachable", f"salt '{name}' test.ping")]
    for name, reason in summary["failed"].items():
        checks[name] = [Check("minion", FAILED, reason, "answer-invalid", f"salt '{name}' saltutil.sync_all")]
    ready = summary["nodes"] - sum(not is_ready(findings) for name, findings in checks.items() if name)
    order = sorted(checks, key=lambda name: (is_ready(checks[name]), name))
    counts = {"fleet": f"{ready} of {summary['nodes']} nodes are ready"}
    return {**counts, **{name or "master": "\n".join(lines(checks[name])) for name in order}}
