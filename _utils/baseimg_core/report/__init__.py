"""
A page for people, of plain data: no I/O, no clock.

HTML is put together with :mod:`html`, whose type says what is HTML already and so escapes everything else: nothing
that a node or an image is called, and no log line, becomes markup. A template engine would be one more package for the
core to need, and would leave escaping to whoever writes the template. Everything is in ``.py`` files because Salt's
sync copies no others.
"""
