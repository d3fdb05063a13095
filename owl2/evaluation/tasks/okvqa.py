"""OK-VQA: questions about COCO val2014 that need knowledge from outside the picture (specification, 2.4)."""

from pathlib import Path

from owl2.evaluation.task import Sample, Task
from owl2.evaluation.tasks.shared.vqa import DECODING, OF_THE_SCRIPTS, annotated_samples, score_vqa


def _files(root: Path, split: str) -> list[Path]:
    names = ("OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json")
    return [root / "okvqa" / name for name in names]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    questions, annotations = _files(root, split)
    return annotated_samples(root, questions, annotations, prompt, stemmed=True)


TASK = Task(
    name="okvqa",
    title="OK-VQA",
    splits=("val",),
    prompts=("space", "newline"),
    protocols=("vqa_official", "vqa_owl2"),
    files=_files,
    load=_load,
    score=score_vqa,
    primary_metric="accuracy",
    download_hint="Put OpenEnded_mscoco_val2014_questions.json and mscoco_val2014_annotations.json of "
    "okvqa.allenai.org into okvqa/, and COCO's val2014 images into coco/val2014/.",
    decoding={"": DECODING},
    counts={"val": 5046},
    paper_results=dict.fromkeys((("paper_table_1", "okvqa"), ("readme", "okvqa")), OF_THE_SCRIPTS + "accuracy"),
)
