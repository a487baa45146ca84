"""What holds for every test."""

from __future__ import annotations

import os

# Emitted code captures each kind of call as a graph at once, so that every test of it runs graphs; the tests of
# `test_graphs.py` compare with the other ways.
os.environ.setdefault("KNETC_GRAPHS", "2")
# Threads that wait for one another give the processor to the other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
