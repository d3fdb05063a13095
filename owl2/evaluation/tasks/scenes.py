"""Generated scenes of the level medium (docs/understand/scenes.md)."""

from owl2.evaluation.tasks.shared.scenes import scenes_task

TASK = scenes_task("scenes", "medium")
