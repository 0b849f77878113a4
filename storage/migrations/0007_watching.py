"""Runs of models with their times and scores, feedback, drift, alerts and messages of them."""

STATEMENTS = (
    """
    CREATE TABLE run (id INTEGER NOT NULL PRIMARY KEY, job INTEGER NOT NULL, model TEXT NOT
    NULL, model_digest TEXT NOT NULL, mode TEXT NOT NULL, provider TEXT NOT NULL, findings
    INTEGER NOT NULL, reviews INTEGER NOT NULL, finished_at REAL NOT NULL)
    """,
    "CREATE UNIQUE INDEX run_job ON run (job)",
    "CREATE INDEX run_model_finished_at ON run (model, finished_at)",
    "CREATE INDEX run_finished_at ON run (finished_at)",
    """
    CREATE TABLE stage_time (run_id INTEGER NOT NULL, stage TEXT NOT NULL, seconds REAL NOT
    NULL, PRIMARY KEY (run_id, stage), FOREIGN KEY (run_id) REFERENCES run (id) ON DELETE
    CASCADE)
    """,
    """
    CREATE TABLE score (id INTEGER NOT NULL PRIMARY KEY, run_id INTEGER NOT NULL, kind TEXT NOT
    NULL, name TEXT NOT NULL, value REAL, needs_review INTEGER NOT NULL, FOREIGN KEY (run_id)
    REFERENCES run (id) ON DELETE CASCADE)
    """,
    "CREATE INDEX score_run_id ON score (run_id)",
    """
    CREATE TABLE model_count (model TEXT NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (model, what))
    """,
    """
    CREATE TABLE feedback (id INTEGER NOT NULL PRIMARY KEY, job INTEGER NOT NULL, model TEXT NOT
    NULL, model_digest TEXT NOT NULL, finding TEXT NOT NULL, verdict TEXT NOT NULL, source TEXT
    NOT NULL, said_by TEXT NOT NULL, document_uid TEXT NOT NULL, noted_at REAL NOT NULL)
    """,
    "CREATE INDEX feedback_job ON feedback (job)",
    "CREATE INDEX feedback_model_noted_at ON feedback (model, noted_at)",
    "CREATE INDEX feedback_document_uid ON feedback (document_uid)",
    """
    CREATE TABLE baseline (model_digest TEXT NOT NULL, name TEXT NOT NULL, edges TEXT NOT NULL,
    counts TEXT NOT NULL, made_at REAL NOT NULL, PRIMARY KEY (model_digest, name))
    """,
    """
    CREATE TABLE drift (model TEXT NOT NULL, name TEXT NOT NULL, reference TEXT NOT NULL, scores
    INTEGER NOT NULL, psi REAL NOT NULL, ks REAL NOT NULL, p REAL NOT NULL, computed_at REAL NOT
    NULL, PRIMARY KEY (model, name))
    """,
    """
    CREATE TABLE alert (name TEXT NOT NULL PRIMARY KEY, rule TEXT NOT NULL, subject TEXT NOT
    NULL, state TEXT NOT NULL, reason TEXT, value REAL, threshold REAL, count INTEGER NOT NULL,
    since REAL NOT NULL, told TEXT NOT NULL, told_at REAL NOT NULL)
    """,
    """
    CREATE TABLE notice (id INTEGER NOT NULL PRIMARY KEY, channel TEXT NOT NULL, content TEXT
    NOT NULL, state TEXT NOT NULL, reason TEXT, attempt INTEGER NOT NULL, not_before REAL NOT
    NULL, created_at REAL NOT NULL, finished_at REAL)
    """,
    "CREATE INDEX notice_state_not_before ON notice (state, not_before)",
)


def up(migrator, db):
    for statement in STATEMENTS:
        db.execute_sql(statement)
