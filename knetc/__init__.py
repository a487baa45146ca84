"""knetc: a compiler from the Knet neural-network language to CUDA."""
