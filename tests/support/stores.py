"""The files of a store, as docs/reference/store-format.md lists them."""

from __future__ import annotations

#: Everything in ``baseimg/`` beside a layer's directory after a finished operation.
STORE_FILES = frozenset(
    {"generations", "history.jsonl", "index", "lifetimes.json", "lock", "state.json", "state.json.spare"}
)
#: What is there only if an image was judged over a generation.
OPTIONAL_FILES = frozenset({"judged.json"})
