"""
Benchmarks of time and size, compared with the alternatives to baseimg.

See README.md; run `make bench`.
"""
