"""Values as a small PNG inside a page: for heatmaps of more cells than a page can hold as elements.

It does not know what the values are. One pixel a value; a value of 0 lets the page through.
"""

import base64
import struct
import zlib

import numpy as np
from torch import Tensor

from cutaway.show.colours import ABOVE, BELOW

MOST = 1024  # pixels a side; what is larger keeps the value of the largest size of each patch


def bitmap(values: Tensor, largest: float, x: float, y: float, width: float, height: float) -> str:
    """An <image> at those pixels of an SVG."""
    at = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none"'
    return f'<image {at} style="image-rendering:pixelated" href="{data_uri(values, largest)}"/>'


def thumbnail(values: Tensor, largest: float, width: int, height: int, title: str) -> str:
    """An <img> of values [rows, columns], framed. title: what hovering tells, escaped."""
    style = f"width:{width}px;height:{height}px;image-rendering:pixelated;border:1px solid #8888;vertical-align:middle"
    return f'<img alt="{title}" title="{title}" style="{style}" src="{data_uri(values, largest, 64)}">'


def data_uri(values: Tensor, largest: float, most: int = MOST) -> str:
    """The PNG as a data: address."""
    small = _pooled(values.detach().cpu().float().numpy(), most)
    rgba = np.empty((*small.shape, 4), np.uint8)
    rgba[..., :3] = np.where(small[..., None] < 0, np.array(BELOW, np.uint8), np.array(ABOVE, np.uint8))
    rgba[..., 3] = np.nan_to_num(np.clip(np.abs(small) / largest, 0, 1), nan=0.0) * 255
    return "data:image/png;base64," + base64.b64encode(_png(rgba)).decode()


def _pooled(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows and columns, each the value of the largest size of those that it stands for."""
    for axis in (0, 1):
        step = -(-values.shape[axis] // most)
        if step > 1:
            starts = np.arange(0, values.shape[axis], step)
            high, low = (of.reduceat(values, starts, axis) for of in (np.fmax, np.fmin))
            values = np.where(np.abs(low) > np.abs(high), low, high)
    return values


def _png(rgba: np.ndarray) -> bytes:
    """PNG, 8 bits a channel (the format: www.w3.org/TR/png)."""
    height, width = rgba.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rgba.reshape(height, -1)], 1)  # each with its filter, none
    parts = ((b"IHDR", struct.pack(">2I5B", width, height, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(rows.tobytes(), 9)))
    chunks = (_chunk(*part) for part in (*parts, (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
