"""Turn the bytes of a data file into its text, whatever program wrote it, and know the suffixes of data files."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path
from typing import NoReturn

from reflora_cli.data.refusal import refuse

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = ".gz"
GZIP = b"\x1f\x8b"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
WIDER = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def format_of(path: Path) -> str:
    """Return the suffix that says how a file is read, `.jsonl` for `train.jsonl.gz`; empty for other kinds of files."""
    name = path.name.lower()
    plain = name.removesuffix(COMPRESSED)
    suffix = Path(plain).suffix
    return suffix if suffix in SUFFIXES and not (suffix == ".parquet" and plain != name) else ""


def stem_of(path: Path) -> str:
    """Return the file's name without the suffixes that say how it is read."""
    name = path.name[: -len(COMPRESSED)] if path.name.lower().endswith(COMPRESSED) else path.name
    return Path(name).stem


def text_of(path: Path) -> str:
    """Return the file's text: UTF-8, or UTF-16 with its byte order mark, compressed by gzip or not."""
    return decoded(path)[0]


def decoded(path: Path) -> tuple[str, bool]:
    """Return the text, and whether it was in UTF-16."""
    data = decompressed(path)
    wide = data.startswith(UTF16) and not data.startswith(WIDER)
    if not wide and b"\0" in data[:2]:  # every second byte of Latin letters in UTF-16
        refuse_encoding(path, data, data.index(b"\0"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig"), wide
    except UnicodeDecodeError as error:
        refuse_encoding(path, data, error.start)


def refuse_encoding(path: Path, data: bytes, place: int) -> NoReturn:
    line = data.count(b"\n", 0, place) + 1
    remedy = "save it as UTF-8 (spreadsheets: `CSV UTF-8`), or convert it, for example from WINDOWS-1252 by iconv"
    refuse("the file is not UTF-8 text", f"{path}, line {line}", f"byte 0x{data[place]:02x}", "UTF-8", remedy)


def decompressed(path: Path) -> bytes:
    """Return the file's bytes, decompressed where they are compressed, whatever the file's name says."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(GZIP) else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        refuse("the file cannot be decompressed", str(path), str(error), "a complete gzip file")
    except OSError as error:
        refuse("the file cannot be read", str(path), error.strerror or str(error), "a file that may be read")
