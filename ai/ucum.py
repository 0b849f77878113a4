"""Whether a text is a unit of UCUM, case-sensitive form.

Source: the Unified Code for Units of Measure, sections 2 to 4: its terms, and the tables of
prefixes and of unit atoms.
"""

from __future__ import annotations

import re
from typing import Final

_PREFIXES: Final = (*"YZEPTGMkhdcmunpfazy", "da", "Ki", "Mi", "Gi", "Ti")
# Atoms that take a prefix.
_METRIC: Final = re.findall(
    r"\S+",
    "m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv l L ar t bar u eV "
    "pc Gal dyn erg P Bi St Mx G Oe Gb sb Lmb ph Ci R RAD REM kat cal Np B bit By Bd st eq osm U "
    "m[H2O] m[Hg] g%",
)
# Atoms that take none; those in square brackets are taken as they come.
_PLAIN: Final = re.findall(
    r"\S+", "10* 10^ % deg gon ' '' min h d wk mo mo_s mo_j mo_g a a_j a_t a_g AU"
)
_ATOMS: Final = frozenset(
    (*_PLAIN, *_METRIC, *(f"{p}{atom}" for p in _PREFIXES for atom in _METRIC))
)
_BRACKETED: Final = re.compile(r"(?:" + "|".join(_PREFIXES) + r")?\[[!-Z^-z|~]+\]")
_TERM: Final = re.compile(r"(?P<unit>.*?)(?P<exponent>[+-]?\d+)?")
_ANNOTATION: Final = re.compile(r"\{[^{}\x00-\x1f\x7f-\uffff]*\}")


def is_ucum(text: str) -> bool:
    """Whether every part of a unit is an atom, a number or an annotation of UCUM.

    Args:
        text: ``mL``, ``mm[Hg]``, ``{SUVbw}g/ml``, ``1``.
    """
    if not text or "\\" in text or " " in text:
        return False
    bare = _ANNOTATION.sub("", text)
    if not bare:
        return True
    if "{" in bare or "}" in bare:
        return False
    parts = re.split(r"[./]", bare.replace("(", "").replace(")", ""))
    # A leading solidus and a term that was nothing but an annotation leave empty parts.
    return all(_is_term(part) for part in parts if part) and any(parts)


def _is_term(part: str) -> bool:
    if part.isdigit() or part in _ATOMS or _BRACKETED.fullmatch(part):
        return True
    match = _TERM.fullmatch(part)
    if match is None or match["exponent"] is None:
        return False
    return match["unit"] in _ATOMS or _BRACKETED.fullmatch(match["unit"]) is not None
