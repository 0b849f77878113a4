"""What the tables of ``model.toml`` are made of: numbers, names and coded concepts."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ai.types import Code
from ai.ucum import is_ucum

# Coding scheme designators of PS3.16 8; private ones begin with 99.
_SCHEMES = r"SCT|DCM|RADLEX|LN|UCUM|FMA|NCIt|IBSI|UMLS|99[A-Z0-9_]{1,14}"

# PS3.16 CID 244: left, right, right and left, unilateral.
_SIDES = ("7771000", "24028007", "51440002", "66459002")


def _band(band: tuple[float, float]) -> tuple[float, float]:
    if band[0] > band[1]:
        raise ValueError("a band is its lowest and its highest probability")
    return band


Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Band = Annotated[tuple[Probability, Probability], AfterValidator(_band)]
Sentence = Annotated[str, Field(min_length=1, max_length=1024)]
TensorName = Annotated[str, Field(min_length=1, max_length=256)]
# Forward slashes only, no leading slash or dot, no way up: it becomes a path.
FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$")
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 -]{0,63}$")]
Index = Annotated[int, Field(ge=0, le=65535)]
Activation = Literal["none", "sigmoid", "softmax"]


class Table(BaseModel):
    """A table of ``model.toml``: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _code(value: Any) -> Any:
    if isinstance(value, Code):
        return value
    if not (isinstance(value, list) and [type(part) for part in value] == [str, str, str]):
        raise ValueError('a code is ["value", "scheme", "meaning"]')
    # PS3.3 8.8 and PS3.5 6.2: SH of at most 16 and LO of at most 64 characters, no backslash.
    if not all(re.fullmatch(r"[^\\\x00-\x1f]+", part) for part in value):
        raise ValueError("no part of a code is empty or holds a backslash or control character")
    if len(value[0]) > 16 or len(value[2]) > 64:
        raise ValueError("a code's value has at most 16 characters, its meaning 64")
    if not re.fullmatch(_SCHEMES, value[1]):
        raise ValueError(f"the scheme is one of {_SCHEMES.replace('|', ', ')}")
    return Code(*value)


def _category(code: Code) -> Code:
    if code.scheme not in {"SCT", "RADLEX", "DCM"}:
        raise ValueError("a category or type is a code of SCT, RADLEX or DCM")
    return code


def _unit(code: Code) -> Code:
    if code.scheme != "UCUM":
        raise ValueError("a unit is a code of UCUM")
    _ucum(code.value)
    return code


def _ucum(text: str) -> str:
    if not is_ucum(text):
        raise ValueError(f"{text!r} is no unit of UCUM, as [hnsf'U], mL, mm, % and 1 are")
    return text


def _side(code: Code) -> Code:
    if (code.scheme, code.value) not in {("SCT", value) for value in _SIDES}:
        raise ValueError(f"a laterality is a code of SCT: {', '.join(_SIDES)}")
    return code


Concept = Annotated[Code, BeforeValidator(_code)]
Category = Annotated[Concept, AfterValidator(_category)]
Unit = Annotated[Concept, AfterValidator(_unit)]
UnitCode = Annotated[str, Field(min_length=1), AfterValidator(_ucum)]
Laterality = Annotated[Concept, AfterValidator(_side)]


class CodedTable(Table):
    """What every table of a thing that a model finds says of it, in codes and in words.

    Attributes:
        severity: Weight for the order of findings.
    """

    category: Category
    type: Category
    description: Sentence
    severity: Probability = 0.0
    site: Concept | None = None
    laterality: Laterality | None = None
