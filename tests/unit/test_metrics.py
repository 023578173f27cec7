"""The Prometheus text format: escaping and naming conventions."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from baseimg_core.model import metrics
from baseimg_core.model.metrics import Metric
from tests.support.fleets import BASE, NEW, status


def node(**more: Any) -> str:
    fields = {"chain_id": "sha256:1", "pristine_version": "12.0", "generation": 1, "space": 5, "activated": 1.7e9}
    fields.update({"in_use": {"generations": 12, "bytes": 7}, "in_use_since": 1.6e9})
    base_status = {**status(NEW), **fields, "exchanges": {"apply": 2, "rollback": 1}, **more}
    return metrics.render(metrics.of_node("0.1.0", "docker/overlay2", [base_status]))


@pytest.mark.parametrize("value", ['"', "\\", "\n", '\\n"\\', "ä", "a{b}=,", ""])
def test_any_text_can_be_a_label(value: str) -> None:
    text = metrics.render([Metric("x_info", "gauge", "Line\nand \\.", [({"label": value}, 1)])])
    (family,) = text_string_to_metric_families(text)
    assert family.documentation == "Line\nand \\."
    assert [(sample.labels, sample.value) for sample in family.samples] == [({"label": value}, 1.0)]


def test_names_follow_the_conventions() -> None:
    families = list(text_string_to_metric_families(node()))
    assert len(families) == 18
    for family in families:
        assert re.fullmatch(r"baseimg(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        counted = {sample.name.endswith("_total") for sample in family.samples}
        assert counted == {family.type == "counter"}
    labels = [tuple(sorted(sample.labels.items())) for family in families for sample in family.samples]
    named = [sample.name for family in families for sample in family.samples]
    assert len(set(zip(named, labels, strict=True))) == len(named)


def test_big_numbers_stay_exact() -> None:
    assert 'baseimg_base_kept_bytes{base="corp/base:12.0"} 123456789012\n' in node(space=123456789012)
    assert 'activated_timestamp_seconds{base="corp/base:12.0"} 1700000000\n' in node()
    assert 'in_use_generations{base="corp/base:12.0"} 12\n' in node()
    assert 'in_use_since_timestamp_seconds{base="corp/base:12.0"} 1600000000\n' in node()


def test_no_series_is_there_twice() -> None:
    """A moved tag leaves two records with the same reference, but each series appears once."""
    broken = {"base": BASE, "path": "/y", "declared": None, "error": {"code": "content-unknown"}}
    base_status = {**status(NEW), "chain_id": "sha256:1", "generation": 1, "space": 5, "activated": 0, "exchanges": {}}
    base_status.update({"in_use": {}, "in_use_since": 0})
    text = metrics.render(
        metrics.of_node("0.1.0", "docker/overlay2", [base_status, {**base_status, "chain_id": "sha256:2"}, broken])
    )
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
    assert f'baseimg_base_drifted{{base="{BASE}@/y"}} 1\n' in text


def test_a_base_that_cannot_be_read() -> None:
    broken = {"base": "", "path": "/x", "declared": None, "error": {"code": "record-invalid"}}
    drifted = {"base": "a:1", "path": "/y", "declared": "2", "error": {"code": "content-unknown"}}
    text = metrics.render(metrics.of_node("0.1.0", "docker/overlay2", [broken, drifted]))
    assert "baseimg_unreadable_records 1\n" in text
    assert 'baseimg_base_drifted{base="a:1"} 1\n' in text
    assert 'baseimg_base_as_declared{base="a:1"} 0\n' in text
