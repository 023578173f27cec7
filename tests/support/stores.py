"""The files of a store, as docs/reference/store-format.md lists them."""

from __future__ import annotations

from baseimg_core.disk.store.generations import Store
from tests.support.deadlines import SECONDS

#: Everything in ``baseimg/`` beside a layer's directory after a finished operation.
STORE_FILES = frozenset(
    {"generations", "history.jsonl", "index", "lock"}
    | {f"{name}.json{end}" for name in ("lifetimes", "state") for end in ("", ".spare")}
)
#: What is there only if an image was judged over a generation.
OPTIONAL_FILES = frozenset({"judged.json", "delivered.json"})


def forget_previous(store: Store) -> None:
    """Make the pristine generation the way back, as if the previous one had been live before it."""
    with store.lock(SECONDS, "test"):
        if record := store.recover():
            record.previous = 0
            store.save(record)
