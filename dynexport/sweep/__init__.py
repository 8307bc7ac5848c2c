"""Which keep ratio: a checkpoint tried at many of them, or the schedule that meets a target.

A sweep runs: `inputs` (what is given) -> `plan` (what is to be made) -> `run`, which makes each
configuration with `measure` and writes it to the `journal` -> `rows` (all that was found, and the
files that show it, with `pareto`).

A search runs: `descent` (a way down through free schedules, in PyTorch) -> `search` (where on it
the target is met, by what a `workbench` measures).
"""

from dynexport.sweep.inputs import Rig
from dynexport.sweep.rows import Row, Sweep
from dynexport.sweep.run import sweep_checkpoint
from dynexport.sweep.search import Search, search_schedule

__all__ = ["Rig", "Row", "Search", "Sweep", "search_schedule", "sweep_checkpoint"]
