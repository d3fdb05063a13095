"""OKVQA: `OpenEnded_mscoco_train2014_questions.json` and `mscoco_train2014_annotations.json`.

9,009 questions in the format of VQAv2, images in `train2014/`, merged by image (Table 8's 9K). An annotator's
`answer` is learnt, not the `raw_answer`: it is the one that the benchmark compares with. `vqa_annotations.py`
has the rule for the answer; every question is worded as in the published evaluation.
"""

from collections.abc import Iterator

from owl2.data.annotations import AnyPath
from owl2.data.records import Conversation

from .vqa_annotations import merged_questions


def conversations(
    questions: AnyPath, annotations: AnyPath, images: AnyPath, seed: int = 0, epoch: int = 0
) -> Iterator[Conversation]:
    """One record an image; see `merged_questions` for the arguments and errors."""
    return merged_questions(questions, annotations, images, "okvqa", seed, epoch)
