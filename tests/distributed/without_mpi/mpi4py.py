"""Stands before the real one on the path of processes that are to do without it."""

raise ImportError("mpi4py was imported where no MPI started the processes")
