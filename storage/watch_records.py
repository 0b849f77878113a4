"""The tables of what is watched: runs of models, what radiologists said of them, alerts.

They name models and jobs by reference and number and outlive neither for longer than
``watch.keep_days``: nothing else hangs on them.
"""

from __future__ import annotations

from peewee import (
    AutoField,
    BooleanField,
    CompositeKey,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    TextField,
)

from storage import states
from storage.record import Record


class Run(Record):
    """One job that a model answered to the end.

    `findings` counts what it found and `reviews` those of them that ask for a human look, 1 where
    the answer as a whole does; `provider` is the execution provider that ran.
    """

    id = AutoField()
    job = IntegerField(unique=True)
    model = TextField()
    model_digest = TextField()
    mode = TextField()
    provider = TextField()
    findings = IntegerField()
    reviews = IntegerField()
    finished_at = DoubleField()

    class Meta:
        indexes = ((("model", "finished_at"), False), (("finished_at",), False))


class StageTime(Record):
    """How long one stage of a run took, in seconds."""

    run = ForeignKeyField(Run, on_delete="CASCADE", index=False)
    stage = TextField()
    seconds = DoubleField()

    class Meta:
        primary_key = CompositeKey("run", "stage")


class Score(Record):
    """One number of a run.

    `kind` is ``finding``, with the model's confidence or null where it defines none,
    ``measurement``, or ``answer`` for the number of findings; `name` is the finding's, with the
    codes of what was measured.
    """

    id = AutoField()
    run = ForeignKeyField(Run, on_delete="CASCADE")
    kind = TextField()
    name = TextField()
    value = DoubleField(null=True)
    needs_review = BooleanField(default=False)


class ModelCount(Record):
    """What happened to a model since the database lives; unlike the rows it is never pruned."""

    model = TextField()
    what = TextField()
    count = IntegerField()

    class Meta:
        primary_key = CompositeKey("model", "what")


class Feedback(Record):
    """What somebody said of the answer of a job, or of one finding in it; the last word counts.

    `finding` is empty for the whole answer; `source` is ``command``, ``api``, ``assessment``,
    ``verification`` or ``rejection note``, `said_by` a role, never a name; `document_uid` is the
    SOP Instance UID of the object that said it, empty where none did.
    """

    noun = "feedback"

    id = AutoField()
    job = IntegerField()
    model = TextField()
    model_digest = TextField()
    finding = TextField()
    verdict = TextField()
    source = TextField()
    said_by = TextField()
    document_uid = TextField()
    noted_at = DoubleField()

    class Meta:
        indexes = ((("job",), False), (("model", "noted_at"), False), (("document_uid",), False))


class Baseline(Record):
    """The scores that a model without a reference is compared with: its own first ones here.

    `edges` and `counts` are the JSON of the histogram.
    """

    model_digest = TextField()
    name = TextField()
    edges = TextField()
    counts = TextField()
    made_at = DoubleField()

    class Meta:
        primary_key = CompositeKey("model_digest", "name")


class Drift(Record):
    """How the newest scores of a finding lie to their reference, as last computed.

    `reference` is ``package`` or ``first runs``; `scores` says how many were compared.
    """

    model = TextField()
    name = TextField()
    reference = TextField()
    scores = IntegerField()
    psi = DoubleField()
    ks = DoubleField()
    p = DoubleField()
    computed_at = DoubleField()

    class Meta:
        primary_key = CompositeKey("model", "name")


class Alert(Record):
    """One thing that may be wrong, by rule and subject; it has a row once it was.

    `count` says how often it was raised, `since` when the state began. `told` is the state that
    was last sent out, `told_at` when; 0 for never.
    """

    noun = "alert"
    transitions = states.ALERT

    name = TextField(primary_key=True)
    rule = TextField()
    subject = TextField()
    state = TextField(default="raised")
    reason = TextField(null=True)
    value = DoubleField(null=True)
    threshold = DoubleField(null=True)
    count = IntegerField(default=1)
    since = DoubleField()
    told = TextField(default="")
    told_at = DoubleField(default=0.0)


class Notice(Record):
    """One message about an alert on its way to one who gets them, ``webhooks:on call``."""

    noun = "notice"
    transitions = states.NOTICE

    id = AutoField()
    channel = TextField()
    content = TextField()
    state = TextField(default="waiting")
    reason = TextField(null=True)
    attempt = IntegerField(default=0)
    not_before = DoubleField(default=0.0)
    created_at = DoubleField()
    finished_at = DoubleField(null=True)

    class Meta:
        indexes = ((("state", "not_before"), False),)


WATCH_TABLES: tuple[type[Record], ...] = (
    Run,
    StageTime,
    Score,
    ModelCount,
    Feedback,
    Baseline,
    Drift,
    Alert,
    Notice,
)
