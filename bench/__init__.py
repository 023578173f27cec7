"""How quick and how small baseimg is, beside what people would use instead. Start with README.md; `make bench`."""
