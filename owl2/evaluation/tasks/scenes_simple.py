"""Generated scenes of the level simple (docs/understand/scenes.md)."""

from owl2.evaluation.tasks.shared.scenes import scenes_task

TASK = scenes_task("scenes_simple", "simple")
