"""
The HTML report, rendered from plain data. Pure: no I/O, no clock.

The Python modules say what each section shows, :mod:`.templates` how. Jinja escapes every value there.
"""
