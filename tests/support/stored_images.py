"""Write label images bit by bit, without Pillow: PNG and TIFF of any bit depth, and PGM."""

import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np


def packed(values: np.ndarray, depth: int) -> list[bytes]:
    """Rows of values of `depth` bits each, the first in the highest bits; 16 bits are big-endian."""
    if depth >= 8:
        return [row.astype(f">u{depth // 8}").tobytes() for row in values]
    bits = (values[..., None].astype(np.uint8) >> np.arange(depth - 1, -1, -1).astype(np.uint8)) & 1
    return [np.packbits(row.reshape(-1)).tobytes() for row in bits]


def write_png(path: Path, values: np.ndarray, *, depth: int, palette: bool = False) -> Path:
    """Write a grey PNG, or one with a palette of colours that have nothing to do with the values."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, depth, 3 if palette else 0, 0, 0, 0)
    colours = bytes(255 - number % 256 for number in range(3 * 2**depth)) if palette else b""
    rows = zlib.compress(b"".join(b"\0" + row for row in packed(values, depth)))
    content = chunk(b"IHDR", header) + (chunk(b"PLTE", colours) if palette else b"") + chunk(b"IDAT", rows)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    return path


def write_tiff(
    path: Path,
    values: np.ndarray,
    *,
    depth: int,
    photometric: int = 1,
    sample_format: int = 1,
    order: Literal["<", ">"] = ">",
    is_compressed: bool = False,
) -> Path:
    """Write a TIFF. `photometric` 0 means that 0 is white; `sample_format` 2 means signed and 3 float."""
    height, width = values.shape
    if sample_format == 1 and depth < 32:
        data = b"".join(packed(values, depth))
    else:
        data = values.astype(f"{order}{'.uif'[sample_format]}{depth // 8}").tobytes()
    data = zlib.compress(data) if is_compressed else data
    tags = {
        256: width,
        257: height,
        258: depth,
        259: 8 if is_compressed else 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    tags[339] = sample_format
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", value)
        if tag in (256, 257, 273, 278, 279)
        else struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        for tag, value in sorted(tags.items())
    )
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    data += b"\0" * (len(data) % 2)
    path.write_bytes(
        (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8 + len(data)) + data + directory
    )
    return path


def write_pgm(path: Path, values: np.ndarray, *, white: int, plain: bool = False) -> Path:
    """Write a PGM whose header calls `white` its white; over 255, values have 16 bits, big-endian."""
    height, width = values.shape
    head = f"{'P2' if plain else 'P5'}\n{width} {height}\n{white}\n".encode()
    body = (
        " ".join(map(str, values.ravel())).encode()
        if plain
        else values.astype(">u2" if white > 255 else "u1").tobytes()
    )
    path.write_bytes(head + body + b"\n" * plain)
    return path
