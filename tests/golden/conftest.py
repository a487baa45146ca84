"""The flag that writes the golden files anew: `pytest tests/golden --update-golden`."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.cu as they are emitted now")
