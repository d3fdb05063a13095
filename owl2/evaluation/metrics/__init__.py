"""The scores of every benchmark as pure functions: no model, no torch, no files.

Each takes what a model said and the right answer, and follows the program that scores the benchmark. Where several
programs disagree, `protocol` names one.
"""

from owl2.evaluation.metrics.ptb.tokenizer import ptb_tokenize

from .agieval import agieval_answer
from .bbh import bbh_answer
from .captioning import CaptionScore, caption_scores
from .gqa import gqa_match
from .judged import mmhal_score, mmvet_score, video_judge_reply
from .math_equivalence import math_equivalent
from .mmbench import mmbench_choice, mmbench_circular
from .mme import mme_answer, mme_scores
from .mmlu import mmlu_scores
from .pope import pope_answer, pope_scores
from .qbench import qbench_choice
from .scienceqa import scienceqa_choice
from .seed import seed_choice
from .vqa import evalai_answer, normalize_vqa_answer, unanswerable_scores, vqa_accuracy

__all__ = [
    "CaptionScore",
    "agieval_answer",
    "bbh_answer",
    "caption_scores",
    "evalai_answer",
    "gqa_match",
    "math_equivalent",
    "mmbench_choice",
    "mmbench_circular",
    "mme_answer",
    "mme_scores",
    "mmhal_score",
    "mmlu_scores",
    "mmvet_score",
    "normalize_vqa_answer",
    "pope_answer",
    "pope_scores",
    "ptb_tokenize",
    "qbench_choice",
    "scienceqa_choice",
    "seed_choice",
    "unanswerable_scores",
    "video_judge_reply",
    "vqa_accuracy",
]
