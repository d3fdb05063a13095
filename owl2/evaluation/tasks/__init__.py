"""The benchmarks, one file each; its name is the task's. A new one is a new file and a name here."""

from difflib import get_close_matches
from importlib import import_module

from owl2.evaluation.task import Task
from owl2.spelling import did_you_mean

TASKS = (
    "coco_caption",
    "flickr30k",
    "vqav2",
    "okvqa",
    "gqa",
    "vizwiz",
    "textvqa",
    "scienceqa",
    "msrvtt_qa",
    "msvd_qa",
    "tgif_qa",
    "mmlu",
    "bbh",
    "agieval",
    "arc_challenge",
    "arc_easy",
    "mme",
    "mmbench",
    "mmvet",
    "seed",
    "qbench",
    "quality",
    "pope",
    "mmhal",
    "easy_vqa",
    "scenes",
    "scenes_simple",
    "scenes_easy",
    "scenes_hard",
)


def task_named(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: The task does not exist; the nearest is named.
    """
    if name not in TASKS:
        hint = did_you_mean(get_close_matches(name, TASKS, 1))
        raise ValueError(f"there is no task {name!r}: {hint}the tasks are {', '.join(TASKS)}")
    task = import_module(f".{name}", __name__).TASK
    assert isinstance(task, Task) and task.name == name
    return task
