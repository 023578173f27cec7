"""Shared test support: engines, images, the kernel as oracle, file systems, Salt's loader."""
