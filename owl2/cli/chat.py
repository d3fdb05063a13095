"""`owl2 chat`: ask once, or talk."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import show_error, user_errors
from .model_options import Base, Bits, Device, Dtype

if TYPE_CHECKING:
    from owl2.chat import ChatSession
    from owl2.reply import Reply
    from owl2.serving.remote_chat import RemoteChatSession

Loading = tuple[str, str, str, str | None, int | None]
"""What `load_for_chat` takes."""

HELP = """/image PATH   show an image with the next message
/video PATH   show a video with the next message
/reset        start anew
/help         this list
/exit         leave (as Ctrl-D does)"""

EXAMPLE = 'owl2 chat -m DIR --image cat.png "What is on the picture?"'


def chat(
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A server of the OpenAI API, such as `owl2 serve`, instead of --model."),
    ] = None,
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
    base: Base = None,
    bits: Bits = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; needs PROMPT.")] = False,
) -> None:
    """Ask a model about images, videos and text: once with PROMPT, or in a conversation without it."""
    if as_json and prompt is None:
        raise ValueError("--json needs a PROMPT: it prints the answer to one question")
    if prompt == "-":
        prompt = _read_prompt()
    if prompt is not None and not prompt.strip() and not image and not video:
        raise ValueError("the PROMPT is empty")
    if (model is None) == (url is None):
        raise ValueError("give --model DIR or --url URL: the model on this machine, or a server that has one")
    if url is not None and (truncate or base or bits or dtype != "auto" or device != "auto"):
        raise ValueError("--truncate, --base, --bits, --dtype and --device are matters of the server at --url")
    session: ChatSession | RemoteChatSession
    if url is not None:
        session = _connect(url, system, image or ())
    else:
        loading = (str(model), dtype, device, base, bits)
        session = _open_with_images(loading, system, truncate, image or (), video or ())
    for path in video or ():
        session.add_video(path)
    if prompt is None:
        _converse(session, model or str(url), max_new_tokens, temperature)
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
        raise ValueError(f"the standard input is not text: {error}") from error


def _connect(url: str, system: str | None, images: Sequence[str]) -> "RemoteChatSession":
    from owl2.serving.remote_chat import RemoteChatSession

    session = RemoteChatSession(url, system)
    for path in images:
        session.add_image(path)
    return session


def _open_with_images(
    loading: Loading,
    system: str | None,
    truncate: bool,
    images: Sequence[str],
    videos: Sequence[str],
) -> "ChatSession":
    """The session with its first images, which are read before the model, as that takes long to load."""
    from owl2.files import model_directory
    from owl2.processing import load_image
    from owl2.processing.image_loading import check_local_path

    pictures = [load_image(path) for path in images]
    for path in videos:
        check_local_path(path, "video")
    model_directory(loading[0])
    session = _open(loading, system, truncate)
    for picture in pictures:
        session.add_image(picture)
    return session


def _open(loading: Loading, system: str | None, truncate: bool) -> "ChatSession":
    from owl2.chat import ChatSession
    from owl2.checkpoints.loading import load_for_chat

    model, processor = load_for_chat(*loading)
    return ChatSession(model, processor, system, truncate)


def _converse(session: "ChatSession | RemoteChatSession", name: str, max_new_tokens: int, temperature: float) -> None:
    """Reads messages and commands until the end of the input; an error is shown, and the conversation continues."""
    _enable_line_editing()
    context = "" if session.context is None else f", {session.context} tokens of context"
    _note(f"{name} on {session.place}{context}. /help lists the commands.")
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


def _command(session: "ChatSession | RemoteChatSession", line: str) -> None:
    name, _, rest = line.partition(" ")
    path = _path_as_typed(rest.strip())
    if name == "/help":
        _note(HELP)
    elif name == "/reset":
        session.reset()
        _note("A new conversation.")
    elif name in ("/image", "/video") and not path:
        raise ValueError(f"{name} needs the path of a file")
    elif name == "/image":
        width, height = session.add_image(path).size
        _note(f"Image of {width} x {height} pixels; it goes with your next message.")
    elif name == "/video":
        frames = session.add_video(path)
        _note(f"{f'{frames} frames go' if frames else 'The video goes'} with your next message.")
    else:
        raise ValueError(f"there is no command {name}; /help lists them")


def _path_as_typed(text: str) -> str:
    """A path as a shell would take it: quotation marks, backslashes before spaces, `~`; other texts as they are."""
    if not os.path.exists(text):
        try:
            words = shlex.split(text)
        except ValueError:  # an apostrophe, or a quotation mark without its other
            words = []
        text = words[0] if len(words) == 1 else text
    return os.path.expanduser(text)


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
