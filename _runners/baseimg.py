"""
The fleet, seen and moved from the master.

Every failure is a ``CommandExecutionError`` whose ``info`` holds a stable ``code``, the message and a hint; so
``salt-run`` exits non-zero.
"""

import sys

getattr(sys.modules.get("baseimg_core"), "purge_if_stale", bool)()

__virtualname__ = "baseimg"


def __virtual__():
    return __virtualname__
