"""Archives that try to do harm, each with a word of what it is refused for. What they would write is `LOOT`."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

#: The name of a file that no archive may bring into being outside of its folder, wherever that is.
LOOT = "loot-of-an-archive"

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def _tar(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as out:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def _file(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _zip(members: Mapping[str, bytes], mode: int = 0, flags: int = 0, packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", packing) as out:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, packing
            out.writestr(info, content)
    found = bytearray(raw.getvalue())
    if flags:
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            found[found.index(mark) + at] |= flags
    return bytes(found)


def _link_and_through() -> bytes:
    """The classic: a link out, then a file through it."""
    return _tar((_file("out", tarfile.SYMTYPE, "/tmp"), b""), (_file(f"out/{LOOT}"), b"x"))


def _pickle() -> bytes:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (exec, (f"open('/tmp/{LOOT}', 'w')",))

    return pickle.dumps(Evil())


def _lying_zip() -> bytes:
    """Its directory says that a member has four bytes, and there are many more."""
    found = bytearray(_zip({_CONFIG: b"{}" + bytes(1 << 20), _WEIGHTS: b"x"}))
    at = found.index(b"PK\x01\x02")
    struct.pack_into("<I", found, at + 24, 4)
    return bytes(found)


def _overlapping_zip() -> bytes:
    """Many members that are the same bytes (42.zip's better successor)."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.json", bytes(64 << 20))
        first = out.infolist()[0]
        for number in range(900):
            info = zipfile.ZipInfo(f"{number}.json")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(info, name, getattr(first, name))
            out.filelist.append(info)
    return raw.getvalue()


def _huge_header() -> bytes:
    """A name that is said to have a gigabyte, all of which a naive reader has in memory before it looks."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    packer = zlib.compressobj(9, wbits=31)
    body = packer.compress(info.tobuf(tarfile.GNU_FORMAT))
    body += b"".join(packer.compress(bytes(1 << 20)) for _ in range(64))
    return body + packer.flush()


def _bomb(size: int = 5 << 30) -> bytes:
    """A member that is said to have more than an adapter may."""
    info = tarfile.TarInfo(_WEIGHTS)
    info.size = size
    return gzip.compress(info.tobuf())


def _sparse() -> bytes:
    info = _file(_WEIGHTS, tarfile.GNUTYPE_SPARSE)
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def _many() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as out:
        for number in range(10_001):
            out.addfile(tarfile.TarInfo(f"{number}"))
    return raw.getvalue()


_GOOD = {_CONFIG: b"{}", _WEIGHTS: b"x"}

#: By name: how its file ends, what makes it, and a word of the sentence that it is refused with.
HOSTILE: Mapping[str, tuple[str, Callable[[], bytes], str]] = {
    "tar_parent": (".tar.gz", lambda: _tar((_file(f"../{LOOT}"), b"x")), "no name of a file below"),
    "tar_parent_inside": (".tar.gz", lambda: _tar((_file(f"a/../../{LOOT}"), b"x")), "no name of a file below"),
    "tar_absolute": (".tar.gz", lambda: _tar((_file(f"/tmp/{LOOT}"), b"x")), "no name of a file below"),
    "tar_home": (".tar.gz", lambda: _tar((_file(f"~/{LOOT}"), b"x")), "no name of a file below"),
    "tar_empty_part": (".tar.gz", lambda: _tar((_file(f"a//{LOOT}"), b"x")), "no name of a file below"),
    "tar_control": (".tar.gz", lambda: _tar((_file("a\x1b[2J.json"), b"x")), "no name of a file below"),
    "tar_long": (".tar.gz", lambda: _tar((_file("a" * 2000), b"x")), "no name of a file below"),
    "tar_deep": (".tar.gz", lambda: _tar((_file("a/" * 40 + "b"), b"x")), "no name of a file below"),
    "tar_link_out": (".tar.gz", lambda: _tar((_file(_WEIGHTS, tarfile.SYMTYPE, "/etc/passwd"), b"")), "is a link"),
    "tar_link_relative": (".tar.gz", lambda: _tar((_file(_WEIGHTS, tarfile.SYMTYPE, "../x"), b"")), "is a link"),
    "tar_link_through": (".tar.gz", _link_and_through, "is a link"),
    "tar_hard_link": (".tar.gz", lambda: _tar((_file(_WEIGHTS, tarfile.LNKTYPE, "/etc/passwd"), b"")), "is a link"),
    "tar_device": (".tar.gz", lambda: _tar((_file(_WEIGHTS, tarfile.BLKTYPE), b"")), "no regular file"),
    "tar_zero_device": (".tar.gz", lambda: _tar((_file(_WEIGHTS, tarfile.CHRTYPE), b"")), "no regular file"),
    "tar_pipe": (".tar.gz", lambda: _tar((_file(_WEIGHTS, tarfile.FIFOTYPE), b"")), "no regular file"),
    "tar_sparse": (".tar.gz", _sparse, "no regular file"),
    "tar_twice": (".tar.gz", lambda: _tar((_file(_CONFIG), b"{}"), (_file(_CONFIG), b"[]")), "in it twice"),
    "tar_case": (".tar.gz", lambda: _tar((_file("a.json"), b"{}"), (_file("A.json"), b"[]")), "in it twice"),
    "tar_bomb": (".tar.gz", _bomb, "bytes unpacked"),
    "tar_huge_header": (".tar.gz", _huge_header, "a header of"),
    "tar_many": (".tar.gz", _many, "more than 10000 members"),
    "tar_cut": (".tar.gz", lambda: _tar((_file(_WEIGHTS), bytes(1000)))[:-20], "none, or damaged"),
    "tar_noise": (".tar", lambda: b"\x00\xff" * 4000, "none, or damaged"),
    "bz2_noise": (".tar.bz2", lambda: b"BZh9" + b"\xff" * 1000, "none, or damaged"),
    "xz_noise": (".tar.xz", lambda: b"\xfd7zXZ\x00" + b"\xff" * 1000, "none, or damaged"),
    "zip_parent": (".zip", lambda: _zip({f"../{LOOT}": b"x"}), "no name of a file below"),
    "zip_absolute": (".zip", lambda: _zip({f"/tmp/{LOOT}": b"x"}), "no name of a file below"),
    "zip_backslash": (".zip", lambda: _zip({f"..\\{LOOT}": b"x"}), "no name of a file below"),
    "zip_drive": (".zip", lambda: _zip({f"C:/{LOOT}": b"x"}), "no name of a file below"),
    "zip_nul": (".zip", lambda: _zip({"a.jsonX": b"x"}).replace(b"a.jsonX", b"a.json\0"), "no name of a file below"),
    "zip_link": (".zip", lambda: _zip({_WEIGHTS: b"/etc/passwd"}, mode=0o120777), "is a link"),
    "zip_device": (".zip", lambda: _zip({_WEIGHTS: b""}, mode=0o060666), "no regular file"),
    "zip_encrypted": (".zip", lambda: _zip(_GOOD, flags=1), "encrypted"),
    "zip_lies": (".zip", _lying_zip, "larger than it says|damaged"),
    "zip_overlap": (".zip", _overlapping_zip, "bytes unpacked"),
    "zip_cut": (".zip", lambda: _zip(_GOOD)[:-30], "none, or damaged"),
    "pickle_only": (".zip", lambda: _zip({"pytorch_model.bin": _pickle(), "config.json": b"{}"}), "no adapter_config"),
    "programs_only": (".zip", lambda: _zip({"setup.py": b"x", "__init__.py": b"x"}), "no adapter_config"),
}
