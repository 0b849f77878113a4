"""What radiologists said of answers, and what it says about a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peewee import fn

from storage import figures
from storage.db import Change
from storage.records import Job
from storage.watch_records import Feedback, Run, Score

VERDICTS = ("accept", "reject", "correct")
"""Right as it stands; not there at all; there, but not as the model told it."""
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True, kw_only=True)
class Said:
    """One verdict.

    Attributes:
        verdict: One of `VERDICTS`.
        finding: Name of the finding, empty for the whole answer.
        source: ``command``, ``api``, ``assessment``, ``verification`` or ``rejection note``.
        said_by: A role, never a name.
        document_uid: SOP Instance UID of the object that said it; empty where none did.
    """

    verdict: str
    finding: str = ""
    source: str
    said_by: str
    document_uid: str = ""


def add(change: Change, job: Job, said: Iterable[Said], *, actor: str) -> int:
    """Note verdicts on the answer of a job; how many were new.

    The same document is heard once.

    Args:
        change: The transaction.
        job: Whose answer it is.
        said: The verdicts.
        actor: Who brought them, for the audit chain.
    """
    noted = 0
    for each in said:
        if each.document_uid and _is_known(job, each):
            continue
        row: Feedback = Feedback.create(
            job=job.id,
            model=job.model,
            model_digest=job.model_digest,
            finding=each.finding,
            verdict=each.verdict,
            source=each.source,
            said_by=each.said_by,
            document_uid=each.document_uid,
            noted_at=change.now,
        )
        figures.count(change, job.model, {each.verdict: 1})
        change.audit(
            f"feedback.{each.verdict}",
            object=job.label(),
            detail={
                "feedback": row.id,
                "model": job.model,
                "finding": each.finding,
                "source": each.source,
                "said_by": each.said_by,
                "document": each.document_uid,
            },
            actor=actor,
        )
        noted += 1
    return noted


def _is_known(job: Job, said: Said) -> bool:
    return bool(
        Feedback.select()
        .where(
            (Feedback.document_uid == said.document_uid)
            & (Feedback.job == job.id)
            & (Feedback.finding == said.finding)
        )
        .exists()
    )


def of_job(job_id: int) -> list[dict[str, Any]]:
    """What was said of a job as plain values, oldest first."""
    return [
        {
            "verdict": row.verdict,
            "finding": row.finding,
            "source": row.source,
            "said_by": row.said_by,
            "noted_at": row.noted_at,
        }
        for row in Feedback.select().where(Feedback.job == job_id).order_by(Feedback.id)
    ]


def models() -> list[str]:
    """The models that something was said of, in order."""
    query = Feedback.select(Feedback.model).distinct().order_by(Feedback.model)
    return [name for (name,) in query.tuples()]


@dataclass(frozen=True)
class Share:
    """A share of cases, with the interval it lies in.

    Attributes:
        part: Cases that it is about.
        of: All cases.
        low: Lower end of its 95 % interval by Wilson.
        high: Upper end.
    """

    part: int
    of: int
    low: float
    high: float

    @classmethod
    def among(cls, part: int, of: int) -> Share | None:
        """The share of `part` in `of`, or None of nothing."""
        return None if of == 0 else cls(part, of, *wilson(part, of))

    @property
    def value(self) -> float:
        """The share itself."""
        return self.part / self.of


def wilson(part: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share by E. B. Wilson (1927).

    Args:
        part: Cases counted, 0 to `of`.
        of: All cases, 1 or more.
    """
    share, square = part / of, _Z * _Z
    middle = share + square / (2 * of)
    half = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    low, high = (middle - half) / (1 + square / of), (middle + half) / (1 + square / of)
    return max(0.0, low), min(1.0, high)


@dataclass(frozen=True)
class Acceptance:
    """What radiologists said of one model.

    Attributes:
        answers: Verdict → answers with findings that got it.
        empty: Verdict → answers without a finding that got it: a right one, or one that missed.
        findings: Name of a finding → verdict → how often.
    """

    answers: Mapping[str, int]
    empty: Mapping[str, int]
    findings: Mapping[str, Mapping[str, int]]

    @property
    def rejection(self) -> Share | None:
        """Share of assessed answers, empty ones too, that were rejected."""
        rejected = self.answers["reject"] + self.empty["reject"]
        return Share.among(rejected, sum(self.answers.values()) + sum(self.empty.values()))

    @property
    def acceptance(self) -> Share | None:
        """Share of assessed answers, empty ones too, that were right as they stood."""
        accepted = self.answers["accept"] + self.empty["accept"]
        return Share.among(accepted, sum(self.answers.values()) + sum(self.empty.values()))

    def ppv(self, finding: str | None = None) -> Share | None:
        """Share of assessed findings that were there, accepted or corrected.

        Args:
            finding: Of that name alone; None for all.
        """
        chosen = [verdicts for name, verdicts in self.findings.items() if finding in (None, name)]
        there = sum(each["accept"] + each["correct"] for each in chosen)
        return Share.among(there, there + sum(each["reject"] for each in chosen))

    @property
    def npv(self) -> Share | None:
        """Share of assessed empty answers that were right: nothing was there."""
        return Share.among(self.empty["accept"], sum(self.empty.values()))


def acceptance(model: str, *, newest: int | None = None) -> Acceptance:
    """What was said of a model's answers, the last word on each.

    The word on a whole answer holds for each finding in it that nothing else was said of, but for
    a correction, which does not say of which. An answer of which only findings were judged is as
    all of them are, and corrected where they differ.

    Args:
        model: ``name@version``.
        newest: Only answers spoken of lately, so many; None for all.
    """
    rows = Feedback.select().where(Feedback.model == model).order_by(Feedback.id)
    if newest is not None:
        lately = (
            Feedback.select(Feedback.job)
            .where(Feedback.model == model)
            .group_by(Feedback.job)
            .order_by(fn.MAX(Feedback.id).desc())
            .limit(newest)
        )
        rows = rows.where(Feedback.job.in_([job for (job,) in lately.tuples()]))
    by_job: dict[int, dict[str, str]] = {}
    for row in rows:
        by_job.setdefault(row.job, {})[row.finding] = row.verdict
    names = _findings(list(by_job))
    answers, empty = _none(), _none()
    findings: dict[str, dict[str, int]] = {}
    for job, words in by_job.items():
        whole = words.pop("", None)
        # Where the run is no longer kept, its findings are those that somebody spoke of.
        found = dict.fromkeys([*names.get(job, []), *words])
        verdict = whole or _together(words.values())
        (answers if found else empty)[verdict] += 1
        for name in found:
            word = words.get(name) or (whole if whole != "correct" else None)
            if word is not None:
                findings.setdefault(name, _none())[word] += 1
    return Acceptance(answers, empty, findings)


def _together(words: Iterable[str]) -> str:
    said = set(words)
    return said.pop() if len(said) == 1 else "correct"


def _none() -> dict[str, int]:
    return dict.fromkeys(VERDICTS, 0)


def _findings(jobs: Sequence[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for start in range(0, len(jobs), 500):
        rows = (
            Score.select(Run.job, Score.name)
            .join(Run)
            .where(Run.job.in_(jobs[start : start + 500]) & (Score.kind == "finding"))
            .order_by(Score.id)
            .tuples()
        )
        for job, name in rows:
            found.setdefault(job, []).append(name)
    return found
