"""
The HTML report, rendered from plain data. Pure: no I/O, no clock.

:mod:`.html` builds all elements. It escapes every value that is not of its type ``Html``, so the names of nodes and
images and the lines of logs never become markup. A template engine would be another dependency, and the author of each
template would be responsible for escaping. CSS and JavaScript are in ``.py`` files because Salt's sync copies only
these.
"""
