"""The Python examples of the page on image quality run."""

import re
from pathlib import Path

import pytest
from quality_helpers import picture

PAGE = Path(__file__).parents[2] / "docs" / "use" / "quality.md"


def test_the_python_examples_run(model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchors").mkdir()
    for index, name in enumerate(("picture.png", "cat.png", "anchors/a.png", "anchors/b.png")):
        picture(index).save(name)
    frames = [picture(index, 16, 16) for index in range(4)]
    frames[0].save("clip.mp4", format="GIF", save_all=True, append_images=frames[1:], duration=500)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace('"DIR"', repr(str(model_directory))), names)
