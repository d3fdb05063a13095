"""Recognises files by their beginning where another kind was expected, so that an error can say what to do."""

import re

_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PICTURE = rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftypavi[fs]"
_VIDEO = rb"\x1aE\xdf\xa3|RIFF....AVI |\x00\x00\x01[\xb3\xba]|....ftyp(?:isom|mp4|qt  |M4V|avc1)"
_AUDIO = rb"ID3|RIFF....WAVE|fLaC|OggS"

_SIGNATURES = (
    (rb"version https://git-lfs", "it is a pointer of Git LFS, not the file: run git lfs pull"),
    (rb"/annex/|\.git/annex", "it is a pointer of git-annex, not the file: run git annex get"),
    (rb"\s*(?i:<!doctype html|<html|<head|<body)", "it is a web page, as a failed download leaves: download it again"),
    (
        rb"\s*(?i:<\?xml[^>]*>\s*)?(?i:<!--.*?-->\s*)?(?i:<!doctype svg[^>]*>\s*)?<svg",
        "it is an SVG drawing: convert it to PNG",
    ),
    (rb"\s*<\?xml", "it is XML, as the error message of a server: download it again"),
    (rb"%PDF", "it is a PDF: convert its pages to PNG"),
    (rb"%!PS", "it is PostScript: convert it to PNG"),
    (rb".{128}DICM", "it is a DICOM file: convert it to PNG"),
    (rb"\x93NUMPY", "it is an array of NumPy: load it, and pass the array"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "it is JPEG XL: convert it to JPEG or PNG"),
    (rb"PK\x03\x04", "it is a zip archive: unpack it"),
    (rb"\x1f\x8b", "it is compressed with gzip: unpack it"),
    (rb".{257}ustar", "it is a tar archive: unpack it"),
    (rb"\x89HDF", "it is an HDF5 file: write its images out"),
    (rb"\s*[\[{]\s*[\"\[{]", "it is JSON, as the error message of a server: download it again"),
    (_VIDEO, "it is a video"),
    (_AUDIO, "it is audio, which mPLUG-Owl2 does not take"),
)


def looks_like(contents: bytes) -> str:
    """The kind of a file by its beginning, and what to do, as the end of a sentence; empty if it is unknown."""
    start = contents[:1024]
    if _is_heic(start):
        return ": it is a HEIC picture, as phones take: convert it to JPEG or PNG"
    for signature, text in _SIGNATURES:
        if re.match(signature, start, re.S):
            return f": {text}"
    if not start.strip(b"\0"):
        return ": it holds nothing but zeros, as a download that was not finished"
    return ""


def medium(contents: bytes) -> str | None:
    """What a file is by its beginning, if it is `a picture`, `a video` or `audio`."""
    start = contents[:1024]
    if _is_heic(start):
        return "a picture"
    kinds = {_PICTURE: "a picture", _VIDEO: "a video", _AUDIO: "audio"}
    return next((kind for signature, kind in kinds.items() if re.match(signature, start, re.S)), None)


def _is_heic(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in _PICTURE_BRANDS
