"""The files of the page. Its addresses are relative, so that it works below any path of a reverse proxy."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

PREFIX = "/page/"

_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}  # browsers insist on them
_HEADERS = {"Cache-Control": "no-cache"}


@router.get("/")
async def index() -> FileResponse:
    return FileResponse(_FOLDER / "index.html", media_type="text/html", headers=_HEADERS)


@router.get(PREFIX + "{name}")
async def file(name: str) -> FileResponse:
    path = _FOLDER / name
    if path.suffix not in _MEDIA_TYPES or path.parent != _FOLDER or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_HEADERS)
