"""The tables of what modalities and archives say that there is."""

from __future__ import annotations

from peewee import CompositeKey, DoubleField, ForeignKeyField, IntegerField, TextField

from storage import states
from storage.record import Record


class ProcedureStep(Record):
    """One Modality Performed Procedure Step that a peer told of; nothing of the patient is kept."""

    noun = "procedure_step"
    transitions = states.PROCEDURE_STEP

    sop_instance_uid = TextField(primary_key=True)
    calling_ae = TextField()
    state = TextField(default="in-progress")
    reason = TextField(null=True)
    changed_at = DoubleField(index=True)


class PerformedObject(Record):
    """One object that a performed procedure step says it made, and in which series."""

    step = ForeignKeyField(ProcedureStep, column_name="procedure_step_uid")
    series_instance_uid = TextField(index=True)
    sop_instance_uid = TextField()

    class Meta:
        primary_key = CompositeKey("step", "sop_instance_uid")


class SourceCount(Record):
    """What a source answered when it was asked how many instances a study has.

    `asked` counts the queries since the study's last object came, which was at `asked_of`; none
    goes out before `not_before`. `instances` is (0020,1208), `by_series` the JSON of (0020,1209)
    by Series Instance UID; both are of the last answer. `reason` says why there was none.
    """

    study_instance_uid = TextField(primary_key=True)
    source = TextField()
    asked = IntegerField(default=0)
    asked_of = DoubleField()
    not_before = DoubleField(default=0.0)
    instances = IntegerField(null=True)
    by_series = TextField(default="{}")
    reason = TextField(null=True)


ANNOUNCED_TABLES: tuple[type[Record], ...] = (ProcedureStep, PerformedObject, SourceCount)
