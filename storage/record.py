"""What every table of the node has in common."""

from __future__ import annotations

from typing import ClassVar

from peewee import Model, make_snake_case

from storage.states import Transitions


def _with_underscores(table: type[Model]) -> str:
    name: str = make_snake_case(table.__name__)
    return name


class Record(Model):
    """A table; `noun` names its rows in the audit chain."""

    noun: ClassVar[str] = ""
    transitions: ClassVar[Transitions] = {}

    class Meta:
        table_function = _with_underscores

    def label(self) -> str:
        """What the audit chain calls this row."""
        return f"{self.noun}:{self.get_id()}"
