"""`owl2 chat`: ask once, or talk."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import show_error, user_errors

if TYPE_CHECKING:
    from owl2.chat import ChatSession, Reply

HELP = """/image PATH   show an image with the next message
/video PATH   show a video with the next message
/reset        start anew
/help         this list
/exit         leave (as Ctrl-D does)"""

EXAMPLE = 'owl2 chat -m DIR --image cat.png "What is on the picture?"'


def chat(
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="Ask this once; `-` reads it from the standard input. Without it: a conversation."
        ),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", metavar="FILE", help="An image; may be repeated.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option("--video", metavar="FILE", help="A video or GIF; may be repeated.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy; higher samples more freely.")] = 0.0,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="Text in front of the conversation.")] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut a text that does not fit the context; an image is never cut.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; needs PROMPT.")] = False,
) -> None:
    """Ask a model about images, videos and text: once with PROMPT, or in a conversation without it."""
    if as_json and prompt is None:
        raise ValueError("--json needs a PROMPT: it prints the answer to one question.")
    if prompt == "-":
        prompt = _read_prompt()
    if prompt is not None and not prompt.strip() and not image and not video:
        raise ValueError("The PROMPT is empty.")
    from owl2.processing import load_image
    from owl2.processing.image_loading import check_local_path

    pictures = [load_image(path) for path in image or ()]  # before the model, which takes long to load
    for path in video or ():
        check_local_path(path, "video")
    session = _open(model, dtype, device, system, truncate)
    for picture in pictures:
        session.add_image(picture)
    for path in video or ():
        session.add_video(path)
    if prompt is None:
        _converse(session, model, max_new_tokens, temperature)
        return
    reply = session.ask(prompt, max_new_tokens, temperature, None if as_json else _write)
    if as_json:
        typer.echo(json.dumps(reply.to_dict(), ensure_ascii=False))
    else:
        typer.echo()
        _note_cut(reply)


def _read_prompt() -> str:
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"The standard input is no text: {error}") from error


def _open(directory: str, dtype: str, device: str, system: str | None, truncate: bool) -> "ChatSession":
    from owl2.chat import ChatSession
    from owl2.checkpoints.loading import load_for_chat

    model, processor = load_for_chat(directory, dtype, device)
    return ChatSession(model, processor, system, truncate)


def _converse(session: "ChatSession", name: str, max_new_tokens: int, temperature: float) -> None:
    """Reads messages and commands until the end of the input; an error of one is shown, and the talk goes on."""
    _enable_line_editing()
    _note(f"{name} on {session.model.device}, {session.context} tokens of context. /help lists the commands.")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if line in ("/exit", "/quit"):
            return
        try:
            if line.startswith("/"):
                _command(session, line)
            elif line:
                reply = session.ask(line, max_new_tokens, temperature, _write)
                typer.echo()
                _note_cut(reply)
        except KeyboardInterrupt:
            _note("\nInterrupted; this turn is forgotten.")
        except user_errors() as error:
            show_error(error)


def _command(session: "ChatSession", line: str) -> None:
    name, _, path = line.partition(" ")
    path = path.strip()
    if name == "/help":
        _note(HELP)
    elif name == "/reset":
        session.reset()
        _note("A new conversation.")
    elif name in ("/image", "/video") and not path:
        raise ValueError(f"{name} needs the path of a file.")
    elif name == "/image":
        width, height = session.add_image(path).size
        _note(f"Image of {width} x {height} pixels; it goes with your next message.")
    elif name == "/video":
        _note(f"{session.add_video(path)} frames; they go with your next message.")
    else:
        raise ValueError(f"There is no command {name}; /help lists them.")


def _write(text: str) -> None:
    typer.echo(text, nl=False)
    sys.stdout.flush()


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _note_cut(reply: "Reply") -> None:
    if reply.cut_characters:
        _note(f"The last {reply.cut_characters} characters of the text were left out to fit the context.")


def _enable_line_editing() -> None:
    """History and editing keys in `input`, where the platform has them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        pass
