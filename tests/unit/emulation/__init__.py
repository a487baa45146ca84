"""Tests of the emulation of CUDA on the processor."""
