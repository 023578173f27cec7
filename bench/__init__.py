"""Benchmarks of speed and size against the alternatives to baseimg. See README.md; run `make bench`."""
