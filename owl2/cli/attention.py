"""`owl2 attention`: where a model looks when it answers."""

from pathlib import Path
from typing import Annotated

import typer

from .model_names import model_names
from .model_options import Device, Dtype

EXAMPLE = 'owl2 attention -m DIR --image cat.png -p "What is this?" --out attention'


def attention(
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    out: Annotated[Path, typer.Option(help="Directory of the figures and numbers.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The question.")] = None,
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
    data: Annotated[
        str | None,
        typer.Option(help="Average over questions of easy_vqa or scenes (_simple, _easy, _hard) in place of one."),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Questions of --data.")] = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Draw where a model looks: Figures 4 and 5 of the paper, maps over the image, what hiding parts of it costs."""
    if (prompt is None) == (data is None):
        raise ValueError("give either --prompt, one question, or --data, a data set to average over")
    of_one = {"--image": image, "--unrelated": unrelated, "--layers": layers, "--heads": heads}
    if data is not None and (given := [option for option, value in of_one.items() if value is not None]):
        raise ValueError(f"{given[0]} is for one question (--prompt), not for a data set")
    chosen, of_heads = _numbers("--layers", layers), _numbers("--heads", heads)
    from owl2.analysis.material import material
    from owl2.files import check_output_directory, model_directory

    check_output_directory(out)
    directories = [model_directory(directory) for directory in (model, *(compare or []))]
    asked = None if data is None else material(data, limit)
    from rich.console import Console

    from owl2.analysis.attention.report import write_attention, write_attention_over_data
    from owl2.checkpoints.loading import load_for_chat
    from owl2.evaluation.progress import sample_progress
    from owl2.processing import load_image

    picture = None if image is None else load_image(image)
    other = None if unrelated is None else load_image(unrelated)
    loaded = [load_for_chat(directory, dtype, device) for directory in directories]
    models = dict(zip(model_names(directories), loaded, strict=True))
    if asked is not None:
        with sample_progress(True, Console(stderr=True)) as progress:
            files = write_attention_over_data(
                models, asked.about_pictures, asked.task.title, out, max_new_tokens, progress
            )
    else:
        assert prompt is not None, "there is a prompt where there is no data set"
        files = write_attention(models, prompt, picture, out, other, chosen, of_heads, max_new_tokens, groups)
    for file in files:
        typer.echo(str(file))


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} takes whole numbers with commas between them, not {text!r}") from error
