"""The adapters to other harnesses, compared with plain forwards, and importable without the harnesses."""

import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from owl2.evaluation.harnesses.completion import Completion

HARNESSES = ("lm_eval", "lmms_eval", "vlmeval")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, model, processor) -> str:
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


def request(*args: object) -> SimpleNamespace:
    return SimpleNamespace(args=args)


@pytest.mark.parametrize(
    ("module", "adapter"), [("lm_eval", "Owl2LM"), ("lmms_eval", "Owl2Lmms"), ("vlmevalkit", "Owl2VLM")]
)
def test_the_adapters_can_be_imported_without_the_harnesses(module, adapter, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in HARNESSES]:
        monkeypatch.delitem(sys.modules, name)
    for name in HARNESSES:
        monkeypatch.setitem(sys.modules, name, None)
    ours = f"owl2.evaluation.harnesses.{module}"
    monkeypatch.setitem(sys.modules, ours, None)  # so that what is imported below is forgotten afterwards
    del sys.modules[ours]
    with pytest.raises(ImportError, match="not installed"):
        getattr(import_module(ours), adapter)("nowhere")


@pytest.fixture
def lm(checkpoint):
    pytest.importorskip("lm_eval")
    from owl2.evaluation.harnesses.lm_eval import Owl2LM

    return Owl2LM(checkpoint, batch_size=2)


def plain(model, tokens: list[int], count: int) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits[0].float()
    scores = torch.log_softmax(logits, -1)
    return sum(float(scores[index - 1, tokens[index]]) for index in range(len(tokens) - count, len(tokens)))


def test_likelihoods_are_those_of_a_plain_forward(lm, model, processor):
    pairs = [("The sky is", " blue"), ("One two three four", " five six"), ("", "Nothing before it")]
    found = lm.loglikelihood([request(*pair) for pair in pairs])
    for (context, continuation), (value, _) in zip(pairs, found, strict=True):
        tokens = processor.encode_prompt(context + continuation)["input_ids"]
        before = processor.encode_prompt(context)["input_ids"] if context else [processor.tokenizer.bos_token_id]
        assert value == pytest.approx(plain(model, tokens, len(tokens) - len(before)), abs=1e-4)


def test_greedy_is_said_of_what_greedy_decoding_gives(lm, model, processor):
    tokens = processor.encode_prompt("The sky is")["input_ids"]
    with torch.no_grad():
        best = int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
    other = (best + 1) % 320
    found = lm._completion.log_likelihoods([([*tokens, best], 1), ([*tokens, other], 1)])
    assert [greedy for _, greedy in found] == [True, False]


def test_a_long_text_is_scored_once_a_token(lm, model, processor, monkeypatch):
    text = "one two three four five six seven eight nine ten"
    tokens = processor.encode_prompt(text)["input_ids"]
    (whole,) = lm.loglikelihood_rolling([request(text)])
    assert whole == pytest.approx(plain(model, tokens, len(tokens) - 1), abs=1e-3)
    from owl2.evaluation.harnesses.lm_eval import _windows

    for longest in (2, 3, 7, 100):
        rows = list(_windows(list(range(20)), longest))
        assert [token for row, count in rows for token in row[-count:]] == list(range(1, 20))
        assert all(len(row) <= longest and count < len(row) for row, count in rows)


def test_answers_end_at_the_texts_of_the_task(lm):
    (whole,) = lm.generate_until([request("The sky is", {"until": [], "max_gen_toks": 12})])
    assert len(whole) > 3
    (cut,) = lm.generate_until([request("The sky is", {"until": [whole[3]], "max_gen_toks": 12})])
    assert cut == whole[: whole.index(whole[3])]


def test_sampling_is_refused(lm):
    with pytest.raises(ValueError, match="only greedy"):
        lm.generate_until([request("x", {"until": [], "do_sample": True})])


def test_the_harness_runs_a_task_of_ours(lm, tmp_path):
    """A task from local files, by the harness's own program."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    (tmp_path / "data.jsonl").write_text('{"q": "One plus one", "c": ["two", "six"], "a": 0}\n' * 3)
    (tmp_path / "tiny.yaml").write_text(
        "task: owl2_tiny\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{tmp_path / 'data.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: 'Question: {{q}} Answer:'\ndoc_to_choice: c\ndoc_to_target: a\nmetric_list:\n  - metric: acc\n"
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    result = simple_evaluate(model=lm, tasks=["owl2_tiny"], task_manager=manager, bootstrap_iters=0)
    assert result["results"]["owl2_tiny"]["acc,none"] in (0.0, 1.0)


def fake_package(monkeypatch, adapter: str, **modules: dict[str, object]):
    """Reloads an adapter with stand-ins for the modules of its harness."""
    import importlib

    for name, contents in modules.items():
        name = name.replace("__", ".")
        for length in range(1, name.count(".") + 2):
            part = ".".join(name.split(".")[:length])
            if part not in sys.modules or sys.modules[part] is None:
                monkeypatch.setitem(sys.modules, part, ModuleType(part))
        for key, value in contents.items():
            setattr(sys.modules[name], key, value)
    monkeypatch.delitem(sys.modules, adapter, raising=False)
    module = importlib.import_module(adapter)
    monkeypatch.delitem(sys.modules, adapter, raising=False)
    return module


def test_lmms_eval_gets_the_answers_of_the_model(checkpoint, monkeypatch):
    class Base:
        def __init__(self):
            self.task_dict = {"pope": {"test": [{"image": Image.new("RGB", (9, 9), "red")}]}}

    adapter = fake_package(
        monkeypatch,
        "owl2.evaluation.harnesses.lmms_eval",
        lmms_eval__api__model={"lmms": Base},
        lmms_eval__api__registry={"register_model": lambda *names: lambda model: model},
    )
    found = adapter.Owl2Lmms(checkpoint).generate_until(
        [request("Is it red?", {"max_new_tokens": 5}, lambda row: [row["image"]], 0, "pope", "test")]
    )
    own = Completion(checkpoint)
    (expected,) = own.answer(["USER: <|image|>Is it red? ASSISTANT:"], [[Image.new("RGB", (9, 9), "red")]], 5)
    assert found == [expected.strip()]


def test_vlmevalkit_gets_the_answers_of_the_model(checkpoint, monkeypatch, tmp_path):
    adapter = fake_package(
        monkeypatch,
        "owl2.evaluation.harnesses.vlmevalkit",
        vlmeval__vlm__base={"BaseModel": type("BaseModel", (), {})},
        vlmeval__dataset={"DATASET_TYPE": lambda name: "MCQ" if name == "MMBench" else "VQA"},
    )
    path = tmp_path / "red.png"
    Image.new("RGB", (9, 9), "red").save(path)
    message = [{"type": "image", "value": str(path)}, {"type": "text", "value": "Is it red?"}]
    answer = adapter.Owl2VLM(checkpoint).generate_inner(message, "MMBench")
    (expected,) = Completion(checkpoint).answer(["USER: <|image|>Is it red? ASSISTANT:"], [[str(path)]], 10)
    assert answer == expected.strip()
    with pytest.raises(ValueError, match="'sound' is neither text nor image"):
        adapter.Owl2VLM(checkpoint).generate_inner([{"type": "sound", "value": "x"}])
