"""Decides when a series and a study is complete, and routes it to models."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import structlog
from pydicom import Dataset

from ai.registry import Registry
from config.errors import MedAIError, StorageError, UnreadableError
from config.schema import RouteSettings, Settings
from dicomnode.results.provenance import made_here
from dicomnode.series.assembly import (
    Complete,
    Evidence,
    Verdict,
    completeness,
)
from dicomnode.series.decode import Decoder, decode_here
from dicomnode.series.explain import explain_studies
from dicomnode.series.headers import read_header
from dicomnode.series.quality import assess
from dicomnode.series.split import LIVE, Asked
from dicomnode.series.study import StudyExplanation
from dicomnode.series.unit import Unit, UnitExplanation, explain_unit, units_of
from dicomnode.series.urgency import priority_of
from dicomnode.work import sources
from dicomnode.work.clock import Silence
from dicomnode.work.indexer import Indexer
from dicomnode.work.patients import EarlierStudies
from storage import jobs, studies
from storage.db import Change, Ledger
from storage.files import expect
from storage.jobs import JobRequest
from storage.objects import ObjectStore
from storage.records import Instance, Series, Study
from storage.series import (
    calling_ae_of,
    current_instances,
    last_broken_off,
    open_associations_of,
    open_series,
)

log = structlog.get_logger(__name__)

LONGEST_PAUSE = 60.0

Members = tuple[list[Instance], list[Dataset], list[Path]]
"""The rows of a series, their headers and files, in one order."""


class Assembler:
    """Takes received objects as far as the job queue; one thread runs it.

    Args:
        settings: The node's settings.
        ledger: The database.
        store: Where the objects lie.
        registry: The models that routes may name.
        node_id: Part of every job's identity.
        decoder: For pixels that two versions of an object differ in.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: ObjectStore,
        registry: Registry,
        node_id: str,
        *,
        decoder: Decoder = decode_here,
    ) -> None:
        self._indexer = Indexer(settings, ledger, store, decoder=decoder)
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._registry = registry
        self._node_id = node_id
        self._silence = Silence()
        self._gaps: dict[str, tuple[tuple[int, float], bool]] = {}

    def step(self) -> tuple[int, float]:
        """Do what can be done now.

        Returns:
            How many jobs were queued, and when to look again at the latest, seconds since the
            epoch.
        """
        while self._indexer.step():
            continue
        queued, again = self._judge()
        return queued + self._settle(), again

    def _judge(self) -> tuple[int, float]:
        again = time.time() + LONGEST_PAUSE
        queued = 0
        waiting = open_series()
        for series in waiting:
            try:
                if not series.instances:
                    self._empty(series)
                    continue
                verdict, members = self._verdict(series)
                if isinstance(verdict, Complete):
                    queued += self._route(series, verdict, members or self._members(series))
                else:
                    again = min(again, verdict.until)
            except (StorageError, UnreadableError) as error:
                log.error("series.fault", why=str(error))
            except Exception as error:  # what is wrong with one series must not hold up the others
                if not isinstance(error, MedAIError):
                    log.exception("series.crashed")
                self._skip(series, error)
        self._gaps = {row.get_id(): gap for row in waiting if (gap := self._gaps.get(row.get_id()))}
        self._silence.keep(row.get_id() for row in waiting)
        return queued, again

    def _empty(self, series: Series) -> None:
        """Nothing is left of a series; what was made of it must not go out."""
        with self._ledger.transaction() as change:
            self._supersede_unasked(change, series, ())
            change.move(series, "complete", reason="every object of it was rejected")
            change.move(series, "skipped", reason="every object of it was rejected")

    def _skip(self, series: Series, error: Exception) -> None:
        known = isinstance(error, MedAIError)
        why = str(error) if known else f"unexpected {type(error).__name__}"
        with self._ledger.transaction() as change:
            change.move(series, "complete", reason="taken as it is")
            change.move(series, "skipped", reason=f"It could not be judged: {why}")

    def _verdict(self, series: Series) -> tuple[Verdict, Members | None]:
        """The verdict, and the series' members where it took reading them."""
        uid = series.series_instance_uid
        evidence = Evidence(
            received=series.instances,
            # Whose association broke off calls again to send the rest: its silence begins then.
            last_object=self._silence.began(uid, max(series.last_object_at, last_broken_off(uid))),
            open_associations=open_associations_of(uid),
            announced=sources.announced(series, self._settings),
            single_image=series.single_image,
            forced=series.forced,
        )
        limits = (self._quiet_seconds(uid), self._settings.series.give_up_seconds)
        verdict = completeness(evidence, time.time(), *limits)
        members = None
        if isinstance(verdict, Complete) and verdict.reason in ("quiet", "count"):
            # The headers are read only now, when a gap could still change the verdict, and once
            # for what has come so far, not at every step.
            so_far = (series.instances, series.last_object_at)
            known = self._gaps.get(uid)
            if known is None or known[0] != so_far:
                members = self._members(series)
                known = self._gaps[uid] = (so_far, assess(members[1]).has_gap)
            verdict = completeness(replace(evidence, gap=known[1]), time.time(), *limits)
        return verdict, members

    def _members(self, series: Series) -> Members:
        rows = current_instances(series.series_instance_uid)
        paths = [self._store.path(row.object_key) for row in rows]
        return rows, [read_header(path) for path in paths], paths

    def _route(self, series: Series, verdict: Complete, members: Members) -> int:
        rows, headers, paths = members
        units = [
            explain_unit(unit, self._settings.routes, self._registry, made_here)
            for unit in units_of(paths, headers)
        ]
        for unit in units:
            if unit.asked:
                expect(unit.unit.files)
        by_path = dict(zip(paths, rows, strict=True))
        with self._ledger.transaction() as change:
            change.move(
                series,
                "complete",
                reason=f"{verdict.reason}: {verdict.evidence}",
                completeness=json.dumps(asdict(verdict)),
            )
            queued = 0
            self._supersede_unasked(change, series, units)
            for unit in units:
                rows = [by_path[path] for path in unit.unit.files]
                for run in unit.asked:
                    inputs = {run.package.manifest.input.role: rows}
                    request = self._request(series, unit.unit, inputs, run)
                    queued += jobs.enqueue(change, request) is not None
            explanation = json.dumps([unit.as_json() for unit in units])
            routed = sum(len(unit.asked) for unit in units)
            if routed:
                change.move(
                    series,
                    "routed",
                    reason=f"{routed} jobs, {queued} of them new",
                    explanation=explanation,
                )
            else:
                why = "; ".join(dict.fromkeys(unit.outcome for unit in units))
                change.move(series, "skipped", reason=why, explanation=explanation)
        return queued

    def _settle(self) -> int:
        """Settle the studies that are ripe and ask the routes of studies; how many jobs came."""
        queued = 0
        quiet = self._settings.series.study_quiet_seconds
        routes = [route for route in self._settings.routes if route.scope == "study"]
        if not routes:
            studies.settle(self._ledger, quiet)
            return 0
        for study in studies.ripe(quiet):
            try:
                queued += self._settle_one(study, routes, quiet)
            except (StorageError, UnreadableError) as error:
                log.error("study.fault", why=str(error))
            except Exception as error:  # what is wrong with one study must not hold up the others
                log.exception("study.crashed")
                known = isinstance(error, MedAIError)
                why = str(error) if known else f"unexpected {type(error).__name__}"
                with self._ledger.transaction() as change:
                    change.move(study, "settled", reason=f"It could not be judged: {why}")
        return queued

    def _settle_one(self, study: Study, routes: Sequence[RouteSettings], quiet: float) -> int:
        rows = studies.current_instances_of(study.study_instance_uid)
        paths = [self._store.path(row.object_key) for row in rows]
        units = units_of(paths, [read_header(path) for path in paths])
        entries = [explain_unit(unit, (), self._registry, made_here) for unit in units]
        earlier = EarlierStudies(study, self._store, self._registry)
        found = explain_studies(entries, routes, self._registry, earlier)
        by_path = dict(zip(paths, rows, strict=True)) | earlier.rows
        with self._ledger.transaction() as change:
            if not studies.is_ripe(study, quiet):
                return 0  # an object came meanwhile
            explanation = json.dumps([each.as_json() for each in found])
            ripe = f"{studies.why_settled(study, quiet)}."
            reason = " ".join([ripe, *(each.outcome for each in found)])
            change.move(study, "settled", reason=reason, explanation=explanation)
            asked = {(each.route.name, each.mode) for each in found if each.package is not None}
            for job in jobs.current_jobs_in(study.study_instance_uid):
                if job.subject == study.study_instance_uid and (job.route, job.mode) not in asked:
                    jobs.supersede(change, job, "the study as it is now does not go to this model")
            return sum(self._enqueue_study(change, each, by_path) for each in found)

    def _enqueue_study(
        self, change: Change, found: StudyExplanation, by_path: Mapping[Path, Instance]
    ) -> int:
        if found.package is None:
            return 0
        inputs = {
            role: [by_path[path] for path in unit.files] for role, unit in found.inputs.items()
        }
        primary = next(iter(found.inputs.values()))
        series = Series.get_by_id(primary.series_instance_uid)
        whole = replace(primary, subject=found.study_instance_uid)
        run = Asked(found.route, found.package, found.mode)
        request = self._request(series, whole, inputs, run)
        return int(jobs.enqueue(change, request) is not None)

    @staticmethod
    def _supersede_unasked(
        change: Change, series: Series, units: Sequence[UnitExplanation]
    ) -> None:
        """Take back what was said of the series before and is not asked of it any more.

        After a late object or a correction a series may no longer be sound or match the route;
        what was made of it as it was must not go out.
        """
        asked = {
            (unit.unit.subject, run.route.name, run.mode) for unit in units for run in unit.asked
        }
        for job in jobs.current_jobs_of(series):
            if (job.subject, job.route, job.mode) not in asked:
                jobs.supersede(change, job, "the series as it is now does not go to this model")

    def _request(
        self,
        series: Series,
        unit: Unit,
        inputs: Mapping[str, Sequence[Instance]],
        run: Asked,
    ) -> JobRequest:
        live = run.mode == LIVE
        return JobRequest(
            node_id=self._node_id,
            series=series,
            subject=unit.subject,
            route=run.route.name,
            model=run.package.manifest.reference,
            model_digest=run.package.digest,
            mode=run.mode,
            send_to=run.route.send_to if live else (),
            inputs=inputs,
            settings={"ae_title": self._settings.node.ae_title},
            priority=priority_of(run.route.priority, unit.headers) if live else "routine",
            source=calling_ae_of(series.series_instance_uid) or "",
        )

    def _quiet_seconds(self, series_instance_uid: str) -> float:
        calling_ae = calling_ae_of(series_instance_uid)
        of_peer = sources.of_peer(self._settings, calling_ae, lambda peer: peer.quiet_seconds)
        return self._settings.series.quiet_seconds if of_peer is None else of_peer
