"""Ways of training one model along a task sequence, against which merging is compared.

Each learner stands in a file of its own and declares its parameters; it is written once for every workload that can
be taught (`merge_lib.workloads.learners.classroom`). Importing this package loads the declarations only, no torch.
"""

from merge_lib.workloads.learners.o_lora import OLora
from merge_lib.workloads.learners.recurrent_kif import RecurrentKif
from merge_lib.workloads.learners.replay import Replay
from merge_lib.workloads.learners.sequential import Sequential
from merge_lib.workloads.learners.settings import LearnerSettings, get, names

__all__ = ["LearnerSettings", "OLora", "RecurrentKif", "Replay", "Sequential", "get", "names"]
