"""The test suite. CONTRIBUTING.md describes its directories."""
