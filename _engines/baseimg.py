"""
Start, resume and advance the rollouts that the master's pillar declares.

.. code-block:: yaml

    # /etc/salt/master.d/baseimg.conf
    engines:
      - baseimg:
          interval: 60          # seconds between two checks of pillar and records
          late_interval: 600    # seconds between two searches for nodes that arrived after a rollout was done

.. code-block:: yaml

    # the pillar of the master's own ID
    baseimg:
      rollouts:
        corp/base:12.0:
          version: '12.1'
          late: converge        # or ignore, the default
          canary: 1             # and every other key of baseimg:rollout

One process runs for each base, as ``salt-run baseimg.move`` would. It outlives neither the engine nor the master; the
next check resumes its rollout from the record. A rollout that failed, that a person halted, or that was rolled back
waits for a person, or for another declared version. ``salt-run baseimg.declared`` shows the states.
"""

import logging
import multiprocessing
import time

__virtualname__ = "baseimg"

log = logging.getLogger(__name__)


def __virtual__():
    if __opts__.get("__role") != "master":
        return False, "the engine baseimg runs on the master"
    return __virtualname__


def start(interval=60, late_interval=600):
    """
    Check the declared rollouts for as long as the master runs.

    interval
        Seconds between two checks.

    late_interval
        Seconds between two searches for late nodes of one base.
    """
    children, searched = {}, {}
    while True:
        try:
            _start_steps(children, searched, late_interval)
        except Exception as exc:  # an engine that ends is started again at once, and would fill the log
            log.error("baseimg cannot check the declared rollouts: %s", exc)
        time.sleep(interval)


def _start_steps(children, searched, late_interval):
    """Start a process for every base whose rollout needs a step and has none."""
    for base, child in list(children.items()):
        if not child.is_alive():
            child.join()
            del children[base]
    states = __runners__["baseimg.declared"]()
    if "error" in states:
        log.error("baseimg cannot read the declared rollouts: %s", states["error"])
    for base, state in states.get("rollouts", {}).items():
        if base in children or not state.get("step"):
            continue
        if state["step"] == "late":
            if time.monotonic() - searched.get(base, float("-inf")) < late_interval:
                continue
            searched[base] = time.monotonic()
        # the runner creates its own connections, so it may be forked
        child = multiprocessing.get_context("fork").Process(target=_move, args=(base,), daemon=True)
        child.start()
        children[base] = child


def _move(base):
    """Run one step, in its own process."""
    result = __runners__["baseimg.move"](base)
    if result.get("retcode"):
        log.warning("baseimg rollout of %s: %s", base, result.get("reason") or result.get("error"))
