"""`owl2 attention`: where a model looks when it answers."""

from pathlib import Path
from typing import Annotated

import typer

from .model_names import model_names

EXAMPLE = 'owl2 attention -m DIR --image cat.png -p "What is this?" --out attention'


def attention(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The question.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    out: Annotated[Path, typer.Option(help="Directory of the figures and numbers.")],
    image: Annotated[str | None, typer.Option(metavar="FILE", help="What the question is about.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Another model beside it, such as one without the module.")
    ] = None,
    unrelated: Annotated[
        str | None, typer.Option(metavar="FILE", help="The unrelated image of Figure 5; by default the image turned.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="0,5,11", help="Layers to draw; first, middle and last by default.")
    ] = None,
    heads: Annotated[str | None, typer.Option(metavar="0,3", help="Heads to average over; all by default.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    groups: Annotated[int, typer.Option(min=1, help="Rows and columns of the occlusion.")] = 7,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
) -> None:
    """Draw where a model looks: Figures 4 and 5 of the paper, maps over the image, what hiding parts of it costs."""
    chosen, of_heads = _numbers("--layers", layers), _numbers("--heads", heads)
    from owl2.analysis.attention.report import write_attention
    from owl2.checkpoints.loading import load_for_chat
    from owl2.processing import load_image

    picture = None if image is None else load_image(image)
    other = None if unrelated is None else load_image(unrelated)
    directories = [model, *(compare or [])]
    loaded = [load_for_chat(directory, dtype, device) for directory in directories]
    models = dict(zip(model_names(directories), loaded, strict=True))
    for file in write_attention(models, prompt, picture, out, other, chosen, of_heads, max_new_tokens, groups):
        typer.echo(str(file))


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} takes whole numbers with commas between them, not {text!r}") from error
