"""Owner mapping round-trips, and refuses IDs outside the range."""

from __future__ import annotations

import pytest

from baseimg_core.errors import LayerUnsupported
from baseimg_core.model.stack.entry import Entry, Kind
from baseimg_core.model.stack.owners import Owners


@pytest.mark.parametrize("number", [-1, 10])
def test_owners_outside_of_the_range_are_refused(number: int) -> None:
    owners = Owners(1000, 2000, 10)
    assert owners.to_disk(Entry(Kind.FILE, 0o644, 9, 0)) == Entry(Kind.FILE, 0o644, 1009, 2000)
    assert owners.original(Entry(Kind.FILE, 0o644, 1009, 2000)) == Entry(Kind.FILE, 0o644, 9, 0)
    with pytest.raises(LayerUnsupported):
        owners.to_disk(Entry(Kind.FILE, 0o644, number, 0))
    with pytest.raises(LayerUnsupported):
        owners.original(Entry(Kind.FILE, 0o644, 1000 + number, 2000))
