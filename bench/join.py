"""
Join several runs on one machine, for example of one workload each.

`python -m bench.join RESULTS.json …`

Writes `<date>-<time>-<machine>.json` and `.md` next to the first file, with all samples, and deletes nothing.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

from bench import report, targets
from bench.measure import Sample, Samples

JOINED = "-joined"


def main(paths: list[Path]) -> None:
    for path in paths:
        if "parts" not in json.loads(path.read_text()) or path.stem.endswith(JOINED):
            raise SystemExit(f"bench: {path} is not what one run of `python -m bench` has written")
    read = [json.loads(path.read_text()) for path in paths]
    if not read:
        raise SystemExit("bench: which results are to be joined?")
    for key in ("name", "processor", "kernel"):
        values = {data["machine"][key] for data in read}
        if len(values) > 1:
            raise SystemExit(f"bench: these are of different machines: {key} is {', '.join(sorted(values))}")
    samples = Samples(Sample(**sample) for data in read for sample in data["samples"])
    parts = [part for data in read for part in data["parts"]]
    verdicts, machine = targets.verdicts(samples), read[0]["machine"]
    path = paths[0].parent / f"{datetime.now():%Y-%m-%d-%H%M}-{machine['name']}{JOINED}.json"
    report.write(path, parts, samples, verdicts, machine)
    path.with_suffix(".md").write_text(report.markdown(samples, verdicts, parts, machine))
    print(path)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
