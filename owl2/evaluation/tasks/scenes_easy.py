"""Generated scenes of the level easy (docs/understand/scenes.md)."""

from owl2.evaluation.tasks.shared.scenes import scenes_task

TASK = scenes_task("scenes_easy", "easy")
