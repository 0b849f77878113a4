"""Secrets: the settings say where one stands and never hold it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from config.errors import Fault, SettingsError
from config.kinds import RESTART, Section, in_words

# What stands where a secret belongs may be one, and is not repeated in any error.
HIDDEN: dict[str, Any] = {"hidden": True}

# RFC 6750 2.1, b64token; so many characters cannot be guessed where they are random.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{32,512}=*")
_WANTED = "wanted: 32 to 512 letters, digits or -._~+/, as openssl rand -hex 32 prints them"


class SecretSettings(Section):
    """``{ file = "…" }`` or ``{ env = "…" }``: where a secret stands."""

    model_config = ConfigDict(
        json_schema_extra=in_words('{ file = "…" } or { env = "…" }', **HIDDEN)
    )

    file: Path | None = Field(
        None,
        description="File that holds it and nothing else; the node's user alone should read it.",
        json_schema_extra=RESTART,
    )
    env: (
        Annotated[
            str,
            Field(
                pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
                json_schema_extra=in_words("the name of an environment variable", **HIDDEN),
            ),
        ]
        | None
    ) = Field(
        None,
        description="Environment variable that holds it, in place of file.",
        json_schema_extra={**RESTART, **HIDDEN},
    )

    @model_validator(mode="after")
    def _is_one_place(self) -> SecretSettings:
        if (self.file is None) == (self.env is None):
            raise PydanticCustomError("secret", "a secret stands in one place")
        return self

    def read(self, key: str) -> str:
        """The secret, without the end of its line.

        Args:
            key: Dotted key of this table, for what is wrong.

        Raises:
            SettingsError: It is not there, or is none.
        """
        found: str | None
        if self.file is not None:
            key, found = f"{key}.file", self._from_file(self.file, f"{key}.file")
        else:
            key, found = f"{key}.env", os.environ.get(self.env or "")
        if found is None:
            raise _fault(key, "a variable that is not set")
        secret = found.rstrip()
        if not _TOKEN.fullmatch(secret):
            raise _fault(key, "a secret that is too short, too long or of other characters")
        return secret

    @staticmethod
    def _from_file(path: Path, key: str) -> str:
        try:
            return path.read_text(encoding="ascii")
        except UnicodeDecodeError:
            raise _fault(key, "a file that is not plain text") from None
        except OSError as error:
            why = (error.strerror or "unknown").lower()
            raise _fault(key, f"a file that cannot be read: {why}") from error


def _fault(key: str, found: str) -> SettingsError:
    return SettingsError([Fault("settings", key, found, _WANTED)])
