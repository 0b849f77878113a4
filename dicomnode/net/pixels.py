"""How long native pixel data must be, from the attributes beside it (PS3.5 8.1, PS3.3 C.7.6.3)."""

from __future__ import annotations

# PS3.3 C.7.6.3.1.2: with one Cb and Cr for two pixels, three samples take the room of two.
_HALF_CHROMA = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422"})


def pixel_length_fault(
    length: int,
    *,
    rows: int | None,
    columns: int | None,
    samples: int | None,
    bits: int | None,
    frames: str,
    photometric: str,
) -> str | None:
    """What is wrong with the length of native pixel data, in a sentence; None when nothing is.

    Args:
        length: Value length of the pixel data element, in bytes.
        rows: Rows (0028,0010), None when absent.
        columns: Columns (0028,0011).
        samples: Samples per Pixel (0028,0002); taken as 1 when absent.
        bits: Bits Allocated (0028,0100).
        frames: Number of Frames (0028,0008) as text; one when empty.
        photometric: Photometric Interpretation (0028,0004).
    """
    if rows is None or columns is None or bits is None:
        return "there is pixel data without Rows, Columns or Bits Allocated"
    if frames and not frames.isdecimal():
        return "Number of Frames (0028,0008) is not a number"
    per_pixel = samples or 1
    if photometric in _HALF_CHROMA and per_pixel == 3:
        per_pixel = 2
    wanted_bits = rows * columns * per_pixel * bits * int(frames or 1)
    wanted = (wanted_bits + 7) // 8
    if length in (wanted, wanted + wanted % 2):
        return None
    return f"pixel data has {length} bytes, its attributes want {wanted}"
