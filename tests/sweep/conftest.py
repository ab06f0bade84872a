"""Fixtures of several modules."""

from tests.sweep.forks import fork  # noqa: F401
