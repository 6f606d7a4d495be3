"""This module recognises what stands in place of a file that was never fetched, so that the message can say so.

    a clone without Git LFS      a text of 130 bytes that names the content by its sha256
    a clone without git-annex    a link to, or a text of, an object of .git/annex
    a copied hub cache           a link into blobs that were left behind
    a hub's address or name      hf://datasets/owner/name, https://huggingface.co/…, owner/name
    a saved page                 the HTML page about a file

Readers of files that come from elsewhere call `refuse_pointer` before they decode: a decoder would only say that the
bytes make no sense.
"""

import re
from pathlib import Path

from protos.errors import InputError

_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = re.compile(rb"(?:\.\./)*(?:\.git)?/?annex/objects/")
_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)
_REMOTE = re.compile(r"(?:^|/)(hf|https?|s3|gs|gcs|ftp):/+(.*)")
_HUB_PAGE = re.compile(r"huggingface\.co/+|(?:datasets|models)/")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HEAD_BYTES = 256


def refuse_pointer(path: Path) -> None:
    """Raises InputError for a path whose content is elsewhere.

    Every other path passes, one that is missing or cannot be read too: its reader says so.
    """
    try:
        if not path.exists():
            _refuse_absent(path)
            return
        if path.is_dir():
            return
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return
    _refuse_content(path, head)


def refuse_pointers(folder: Path, pattern: str = "*") -> None:
    """Calls `refuse_pointer` for the folder and for the files in it that match `pattern`."""
    refuse_pointer(folder)
    for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
        refuse_pointer(path)


def _refuse_absent(path: Path) -> None:
    text = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    if path.is_symlink():
        raise InputError(
            f"{path}: a link to {path.readlink()}, which is not here; fetch the content (git annex get, or hf download "
            "--local-dir DIR), or copy with the links followed (cp -rL)"
        )
    if remote := _REMOTE.search(text):
        raise InputError(f"{text}: an address, and only local files are read; {_download(remote[1], remote[2])}")
    if _HUB_NAME.fullmatch(text) and not path.parent.exists():
        raise InputError(
            f"{text}: no such file or folder here; if it is a name on the Hugging Face hub, {_download('hf', text)}"
        )


def _download(kind: str, rest: str) -> str:
    """Returns what to do about an address."""
    if kind != "hf" and not rest.startswith("huggingface.co/"):
        return "download it and give the local folder"
    dataset = "datasets/" in rest
    name = "/".join(_HUB_PAGE.sub("", rest).split("/")[:2])
    return f"download it first: hf download {name} {'--repo-type dataset ' if dataset else ''}--local-dir DIR"


def _refuse_content(path: Path, head: bytes) -> None:
    if head.startswith(_LFS):
        size = re.search(rb"\nsize (\d+)", head)
        promised = f" of {int(size[1]):,} bytes" if size else ""
        raise InputError(
            f"{path}: a Git LFS pointer, not the file{promised}; fetch it: git lfs install && git lfs pull, or hf "
            "download --local-dir DIR"
        )
    if _ANNEX.match(head):
        raise InputError(f"{path}: a git-annex pointer, not the file; fetch it: git annex get {path.name}")
    if _PAGE.match(head):
        raise InputError(f"{path}: a web page, not the file; download the file itself (hf download, or its raw link)")
