"""The tables of the node.

Times are UTC seconds since the epoch as doubles; the audit chain alone keeps RFC 3339 text. A
table is called like its class, with underscores. Which state may follow which: `storage.states`.
"""

from __future__ import annotations

from peewee import (
    SQL,
    AutoField,
    BooleanField,
    CompositeKey,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from storage import states
from storage.announced_records import ANNOUNCED_TABLES
from storage.record import Record
from storage.watch_records import WATCH_TABLES


class NodeFact(Record):
    """One fact about the node itself: its id, whether it is paused."""

    key = TextField(primary_key=True)
    value = TextField()


class Association(Record):
    """One association a peer opened; `closed_at` is null while it lasts."""

    noun = "association"

    id = AutoField()
    calling_ae = TextField()
    called_ae = TextField()
    address = TextField()
    receiver = TextField()
    opened_at = DoubleField()
    closed_at = DoubleField(null=True)
    outcome = TextField(null=True)


class Instance(Record):
    """One version of one SOP instance, as it came.

    `digest` is SHA-256 over the data set's bytes; `covered_by` is the audit event that counts it.
    """

    noun = "instance"
    transitions = states.INSTANCE

    id = AutoField()
    sop_instance_uid = TextField()
    revision = IntegerField()
    sop_class_uid = TextField()
    transfer_syntax_uid = TextField()
    study_instance_uid = TextField()
    series_instance_uid = TextField()
    digest = TextField()
    size = IntegerField()
    object_key = TextField(unique=True)
    association = ForeignKeyField(Association, column_name="association_id")
    received_at = DoubleField()
    state = TextField(default="stored")
    reason = TextField(null=True)
    covered_by = IntegerField(null=True)

    class Meta:
        # None on the state alone: SQLite would take it where nearly every row is in that state.
        indexes = (
            (("sop_instance_uid", "digest"), True),
            (("series_instance_uid", "state"), False),
        )


# These hold few rows: what nobody read yet, what is in no series, what no audit event covers yet,
# what is open now.
Instance.add_index(Instance.id, where=SQL("state = 'stored'"), name="instance_stored")
Instance.add_index(Instance.state, where=SQL("state <> 'indexed'"), name="instance_not_indexed")
Instance.add_index(
    Instance.association, where=Instance.covered_by.is_null(), name="instance_uncovered"
)
Association.add_index(
    Association.id, where=Association.closed_at.is_null(), name="association_open"
)


class Study(Record):
    """A study as far as it was received.

    `explanation` is the JSON of what the routes of studies came to. `patient` is the keyed digest
    of the Patient ID and its issuer, `taken_at` Study Date and Time as ``YYYYMMDDHHMMSS``; both are
    null where the headers do not say.
    """

    noun = "study"
    transitions = states.STUDY

    study_instance_uid = TextField(primary_key=True)
    state = TextField(default="open")
    reason = TextField(null=True)
    last_object_at = DoubleField()
    explanation = TextField(null=True)
    patient = TextField(null=True)
    taken_at = TextField(null=True)

    class Meta:
        indexes = (
            (("state", "last_object_at"), False),
            (("last_object_at",), False),
            (("patient", "taken_at"), False),
        )


class Series(Record):
    """A series as far as it was received.

    `explanation` is the JSON of the quality verdict and of every rule with its reasons,
    `announced` that of the number of images its headers announce, by acquisition, `completeness`
    that of the last verdict that it is complete: reason and evidence.
    """

    noun = "series"
    transitions = states.SERIES

    series_instance_uid = TextField(primary_key=True)
    study = ForeignKeyField(Study, column_name="study_instance_uid", backref="series")
    modality = TextField()
    sop_class_uid = TextField()
    state = TextField(default="receiving")
    reason = TextField(null=True)
    instances = IntegerField(default=0)
    first_object_at = DoubleField()
    last_object_at = DoubleField()
    single_image = BooleanField(default=False)
    forced = BooleanField(default=False)
    explanation = TextField(null=True)
    announced = TextField(null=True)
    completeness = TextField(null=True)

    class Meta:
        indexes = ((("state", "study"), False),)


class Job(Record):
    """One model to be run on one input, or on one for each of its roles.

    `input_instances` is the JSON of instance ids by input role. `attempt` only grows and fences
    every write after the claim; `failures` counts attempts that failed and `crashes` those that
    took their process with them, since the last retry by hand. `priority` is ``stat`` or
    ``routine``, `source` the calling AE title that sent the primary input, `queued_at` since when
    it waits, or waited, for its turn. `withdrawal` is the code of a
    rejection note (PS3.16 CID 7010) that is still to be made for what was sent of it. `mode` is
    ``live``, or ``shadow`` where the results are kept and never delivered.
    """

    noun = "job"
    transitions = states.JOB

    id = AutoField()
    identity = TextField(unique=True)
    series = ForeignKeyField(Series, column_name="series_instance_uid", backref="jobs")
    subject = TextField(index=True)
    study_instance_uid = TextField()
    route = TextField()
    model = TextField()
    model_digest = TextField()
    send_to = TextField()
    input_instances = TextField()
    run_number = IntegerField(default=0)
    state = TextField(default="queued")
    reason = TextField(null=True)
    attempt = IntegerField(default=0)
    failures = IntegerField(default=0)
    crashes = IntegerField(default=0)
    owner = TextField(null=True)
    lease_until = DoubleField(null=True)
    not_before = DoubleField(default=0.0)
    created_at = DoubleField()
    started_at = DoubleField(null=True)
    finished_at = DoubleField(null=True)
    seconds = TextField(null=True)
    withdrawal = TextField(null=True)
    mode = TextField(default="live")
    priority = TextField(default="routine")
    source = TextField(default="")
    queued_at = DoubleField()

    class Meta:
        indexes = (
            (("state", "crashes"), False),
            (("source", "started_at"), False),
            (("priority", "started_at"), False),
        )


Job.add_index(Job.id, where=Job.withdrawal.is_null(False), name="job_withdrawal")


class Result(Record):
    """One stored result object of a job; its bytes never change once the job is ready."""

    noun = "result"

    id = AutoField()
    job = ForeignKeyField(Job, backref="results")
    kind = TextField()
    sop_class_uid = TextField()
    sop_instance_uid = TextField(unique=True)
    transfer_syntax_uid = TextField()
    digest = TextField()
    size = IntegerField()
    object_key = TextField(unique=True)
    created_at = DoubleField()


class Delivery(Record):
    """One result on its way to one destination.

    `begun` says that the destination accepted an association to take it: from then on the bundle
    it belongs to goes whole. `wanted` is the kind that the settings ask for; where the result is
    of another kind, `fell_back` says why. `failures` counts the destination's own answers to this
    object that were failures, `since` is when it began to wait, both anew after a retry by hand.
    """

    noun = "delivery"
    transitions = states.DELIVERY

    id = AutoField()
    result = ForeignKeyField(Result, backref="deliveries")
    destination = TextField()
    state = TextField(default="waiting")
    reason = TextField(null=True)
    status = IntegerField(null=True)
    attempt = IntegerField(default=0)
    begun = BooleanField(default=False)
    not_before = DoubleField(default=0.0)
    created_at = DoubleField()
    finished_at = DoubleField(null=True)
    wanted = TextField()
    fell_back = TextField(null=True)
    failures = IntegerField(default=0)
    since = DoubleField()

    class Meta:
        indexes = ((("result", "destination"), True), (("state", "destination"), False))


class CircuitBreaker(Record):
    """The columns of every circuit breaker; what never failed has no row.

    `failures` counts failures in a row; while it is open nothing is tried before `retry_at`.
    """

    transitions = states.BREAKER

    name = TextField(primary_key=True)
    state = TextField(default="closed")
    reason = TextField(null=True)
    failures = IntegerField(default=0)
    retry_at = DoubleField(default=0.0)


class Destination(CircuitBreaker):
    """The breaker of one destination: counts associations that did not come about or broke."""

    noun = "destination"


class ModelBreaker(CircuitBreaker):
    """The breaker of one model, ``name@version``: counts jobs that failed by its fault."""

    noun = "model_breaker"


class DestinationKind(Record):
    """Whether a destination took a kind of result when it was last asked."""

    destination = TextField()
    kind = TextField()
    accepted = BooleanField()
    noted_at = DoubleField()

    class Meta:
        primary_key = CompositeKey("destination", "kind")


class Rejection(Record):
    """One SOP instance that a received rejection note names (IHE RAD TF-3 4.66, IOCM)."""

    sop_instance_uid = TextField(primary_key=True)
    code = TextField()
    study_instance_uid = TextField()
    note_uid = TextField()
    noted_at = DoubleField()


class SeriesAssociation(Record):
    """Which associations carried which series; completeness waits for their release."""

    series_instance_uid = TextField()
    association = ForeignKeyField(Association, column_name="association_id")

    class Meta:
        primary_key = CompositeKey("series_instance_uid", "association")


class ModelVersion(Record):
    """Where one version of a model stands; it has a row once a command said so.

    `digest` is that of the package it was said of. `rank` grows with each promotion to production
    on this site: of several versions in production the one with the highest serves.
    """

    noun = "model"
    transitions = states.MODEL

    reference = TextField(primary_key=True)
    digest = TextField()
    state = TextField(default="development")
    reason = TextField(null=True)
    rank = IntegerField(default=0)
    changed_at = DoubleField()


class AuditEvent(Record):
    """One link of the audit chain; see `storage.audit`."""

    noun = "audit_event"

    seq = IntegerField(primary_key=True)
    version = IntegerField()
    time = TextField()
    actor = TextField()
    action = TextField()
    object = TextField()
    outcome = TextField()
    detail = TextField()
    prev_hash = TextField()
    hash = TextField()


TABLES: tuple[type[Record], ...] = (
    NodeFact,
    Association,
    Instance,
    Study,
    Series,
    Job,
    Result,
    Delivery,
    Destination,
    DestinationKind,
    ModelBreaker,
    Rejection,
    SeriesAssociation,
    ModelVersion,
    AuditEvent,
    *ANNOUNCED_TABLES,
    *WATCH_TABLES,
)
