"""The training loop of all workloads: settings, optimiser, precision, memory, saves on the way.

Importing this package loads nothing; `config` and `curves` import no torch.
"""
