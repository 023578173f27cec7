"""The test suite: see CONTRIBUTING.md for what lives in which directory."""
