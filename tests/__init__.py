"""Tests; a package, so that the `tests` of other distributions do not hide it."""
