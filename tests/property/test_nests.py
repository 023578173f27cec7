"""Random nests of bases, versions, declarations and orders; the kernel's overlay is the oracle."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from baseimg_core.errors import BaseimgError
from baseimg_core.ops import preview
from tests.support.kernel import differences, show
from tests.support.nests import NestNode, files, tag

FEW_EXAMPLES = settings(max_examples=settings().max_examples // 5)

# few names, so layers override each other's paths, and files replace directories
paths = st.sampled_from(["a", "a/b", "a/b/c", "d/e", "d/f", "g"])
contents = st.dictionaries(paths, st.sampled_from("123"), min_size=1, max_size=4).map(
    lambda chosen: {
        path: chosen[path] for path in chosen if not any(parent.startswith(f"{path}/") for parent in chosen)
    }
)


@dataclass(frozen=True)
class NestProgram:
    """Bases of a nest, lowest first; several can be built on the same base."""

    #: The layer of each base, and the number of the base below it; the first base has none.
    layers: list[tuple[Mapping[str, str], int]]
    #: The layers of each base's versions, each with the version of the base below it (0: the original).
    versions: list[list[tuple[Mapping[str, str], int]]]
    #: Successive declarations: the version of each base (0: its own) and the order of its states.
    declarations: list[tuple[list[int], list[int]]]


@st.composite
def programs(draw: st.DrawFn) -> NestProgram:
    count = draw(st.integers(2, 5))
    layers = [(draw(contents), draw(st.integers(max(0, number - 2), max(0, number - 1)))) for number in range(count)]
    versions = [draw(st.lists(st.tuples(contents, st.integers(0, 2)), min_size=1, max_size=2)) for _ in layers]
    declarations = draw(
        st.lists(
            st.tuples(
                st.tuples(*(st.integers(0, len(each)) for each in versions)).map(list),
                st.permutations(range(count)),
            ),
            min_size=1,
            max_size=3,
        )
    )
    return NestProgram(layers, versions, declarations)


def name(number: int) -> str:
    return f"corp/base{number}:v0"


def make(root: Path, program: NestProgram) -> NestNode:
    node = NestNode(root)
    stacks: dict[tuple[int, int], Sequence[Path]] = {}
    for number, (layer, below) in enumerate(program.layers):
        node.image(name(number), name(below) if number else "", files(layer))
        stacks[number, 0] = node.stacks[name(number)]
        for version, (content, lower) in enumerate(program.versions[number], 1):
            built_on = stacks.get((below, lower), stacks.get((below, 0), ())) if number else ()
            stacks[number, version] = node.version(name(number), f"v{version}", built_on, files(content))
    return node


def outcome(work: Callable[..., dict[str, object]], *arguments: object) -> dict[str, object]:
    """Return the operation's report, or its error."""
    try:
        done = work(*arguments)
    except BaseimgError as exc:
        return {"code": exc.code}
    return {key: done[key] for key in ("changed", "from", "to", "kept", "images")}


def check_every_view(node: NestNode, goals: Mapping[str, str]) -> None:
    """Assert that each base shows its declared version; a base at its own version follows the base below."""
    for base, version in goals.items():
        assert node.live(base) == version
        if version == tag(base):
            top = node.original(base)
            assert differences(node.view(base), show([top, *node.stacks[base][1:]])) == []
        else:
            assert differences(node.view(base), node.views[base, version]) == []


@FEW_EXAMPLES
@given(program=programs())
def test_what_a_plan_says_happens_in_any_order(program: NestProgram) -> None:
    with tempfile.TemporaryDirectory() as root:
        node = make(Path(root), program)
        live_versions = {name(number): "v0" for number in range(len(program.layers))}
        for numbers, order in program.declarations:
            goals = [(name(number), f"v{numbers[number]}") for number in order]
            earlier: list[tuple[str, str]] = []
            planned = []
            for base, version in goals:
                plan = outcome(node.plan, base, version, earlier)
                planned.append(plan)
                if plan.get("changed"):
                    earlier.append((base, version))
            for (base, version), plan in zip(goals, planned, strict=True):
                assert outcome(node.converge, base, version) == plan
                live_versions[base] = version
                check_every_view(node, live_versions)
            for base, version in goals:
                assert not node.plan(base, version)["changed"]
        for base in sorted(live_versions):
            node.rollback(base, "pristine")
            check_every_view(node, {**live_versions, base: "v0"})
            live_versions[base] = "v0"


def test_a_declaration_reaches_one_result_whatever_the_order_of_its_bases(tmp_path: Path) -> None:
    """{os 1, java 2} changes to {os 2, java 1}, with three stacked bases, in every order."""
    program = NestProgram(
        [({"a": "1", "d/e": "1"}, 0), ({"a/b": "2"}, 0), ({"d/f": "3"}, 1), ({"a": "4"}, 0)],
        [[({"a": "5"}, 0)], [({"d/e": "6"}, 0)], [({"g": "7"}, 1)], [({"g": "8"}, 1)]],
        [],
    )
    goals = {name(0): "v1", name(1): "v0", name(2): "v1", name(3): "v1"}
    for turn, order in enumerate([None, *itertools.permutations(goals)]):
        node = make(tmp_path / str(turn), program)
        node.converge(name(1), "v1")
        names = order or preview.order(node.engine, [node.goal(*goal) for goal in goals.items()])
        for base in names:
            node.converge(base, goals[base])
        check_every_view(node, goals)
