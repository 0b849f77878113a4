"""Where runs wait for a core or a device, and where small ones of several callers become one.

A fixed number of lanes run graphs, so that lanes times the runtime's own threads are the cores, in
whatever many threads jobs are prepared. On a GPU runs of the same session and shape are joined, up
to the batch of the model: those that wait while it is busy, and those that come within a few
milliseconds. On a CPU a batch takes as long as its items one by one, so nothing is joined there,
and nothing waits, unless the settings name a time. The only run of the only job may have
all cores (`LoadedModel.alone`); what comes meanwhile starts beside it all the same.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai import recovery
from ai.loaded import LoadedModel, Tensors
from ai.recovery import Ran
from ai.session import SessionCache
from config.errors import InferenceError, ModelError

Feeds = Mapping[str, NDArray[Any]]

GPU_WAIT_SECONDS = 0.003
# One computes while the tensors of the other are on their way.
_RUNS_ON_A_GPU = 2
_IDLE_SECONDS = 5.0
_SAME = 1e-2


@dataclass(eq=False)
class _Request:
    model: LoadedModel
    feeds: Feeds
    ends: float | None
    key: tuple[object, ...] | None
    alone: bool
    came: float = field(default_factory=time.monotonic)
    answer: Future[Ran] = field(default_factory=Future)

    @property
    def items(self) -> int:
        return self.model.items(self.feeds)


class Lanes:
    """Runs graphs for any number of threads.

    Args:
        sessions: Where the sessions come from.
        count: Runs at a time; None for the cores divided by the threads of a run.
        wait_seconds: How long a run may wait for others to join it; None for 3 ms on a GPU and
            none on the CPU.
    """

    def __init__(
        self, sessions: SessionCache, count: int | None = None, wait_seconds: float | None = None
    ) -> None:
        self.count = count or max(1, (os.cpu_count() or 1) // sessions.threads)
        self._sessions = sessions
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._queue: list[_Request] = []
        self._running: Counter[int] = Counter()
        self._under_way: list[_Request] = []
        self._threads = 0
        self._free = 0
        self._jobs = 0

    @contextmanager
    def job(self) -> Iterator[None]:
        """While a job is prepared and run; where there are several none of their runs is alone."""
        with self._changed:
            self._jobs += 1
        try:
            yield
        finally:
            with self._changed:
                self._jobs -= 1

    def submit(
        self, model: LoadedModel, feeds: Feeds, ends: float | None, *, alone: bool = False
    ) -> Future[Ran]:
        """Puts a run in the queue.

        Args:
            model: What is to run.
            feeds: Tensors by name; not to be changed before the answer is there.
            ends: When its time is up, on the monotonic clock; None for no limit.
            alone: The job waits for this run before it submits another one.
        """
        request = _Request(model, feeds, ends, self._key(model, feeds), alone)
        with self._changed:
            self._queue.append(request)
            if self._free < len(self._queue) and self._threads < self.count:
                self._threads += 1
                threading.Thread(target=self._work, name="lane", daemon=True).start()
            self._changed.notify()
        return request.answer

    def result(self, model: LoadedModel, answer: Future[Ran], ends: float | None) -> Ran:
        """Waits for the answer of a run.

        Raises:
            InferenceError: The time was up, or the run failed.
        """
        try:
            return answer.result(None if ends is None else max(0.0, ends - time.monotonic()) + 1.0)
        except TimeoutError as error:
            # Its own run would have been stopped: it waited, or runs on for others.
            answer.cancel()
            raise InferenceError(f"{model.reference} was stopped: its time was up") from error

    def overdue(self, grace_seconds: float) -> set[str]:
        """Models of which a run goes on so long after its time was up: it does not stop."""
        now = time.monotonic()
        with self._changed:
            return {
                request.model.reference
                for request in self._under_way
                if request.ends is not None and request.ends + grace_seconds <= now
            }

    def _wait(self, model: LoadedModel) -> float:
        if self._wait_seconds is not None:
            return self._wait_seconds
        return 0.0 if model.on_cpu else GPU_WAIT_SECONDS

    def _key(self, model: LoadedModel, feeds: Feeds) -> tuple[object, ...] | None:
        """What runs must have in common to be joined; None for one that is not joined."""
        joins = not model.on_cpu or bool(self._wait_seconds)
        if not (joins and model.cuttable and model.usage.most > 1 and items_are_apart(model)):
            return None
        alike = [
            (name, array.shape[1:] if name in model.stacked else (array.shape, array.tobytes()))
            for name, array in sorted(feeds.items())
        ]
        return (id(model), *alike)

    def _work(self) -> None:
        while self._do():
            pass

    def _do(self) -> bool:
        """Waits for runs and does them; False when there were none for a while."""
        group = self._next()
        if not group:
            return False
        try:
            self._run(group)
        finally:
            with self._changed:
                self._under_way = [each for each in self._under_way if each not in group]
                self._running[id(group[0].model)] -= 1
                self._changed.notify_all()
        return True

    def _next(self) -> list[_Request]:
        """The runs to do now, as one; none when there was nothing to do for a while."""
        with self._changed:
            self._free += 1
            try:
                gives_up = time.monotonic() + _IDLE_SECONDS
                while True:
                    group, due = self._ready()
                    if group:
                        return group
                    if not self._queue and time.monotonic() >= gives_up:
                        self._threads -= 1
                        return []
                    # What waits for a GPU is woken by the end of a run, whenever that is.
                    until = due if self._queue else gives_up
                    left = max(0.0, until - time.monotonic())
                    self._changed.wait(None if math.isinf(until) else left)
            finally:
                self._free -= 1

    def _ready(self) -> tuple[list[_Request], float]:
        """The first runs that need not wait, taken out of the queue; else when to look again."""
        now, due = time.monotonic(), math.inf
        for request in self._queue:
            model = request.model
            if not model.on_cpu and self._running[id(model)] >= _RUNS_ON_A_GPU:
                continue
            group = self._joined(request)
            full = request.key is None or sum(each.items for each in group) >= model.usage.most
            until = request.came + self._wait(model)
            if full or until <= now:
                self._queue = [each for each in self._queue if each not in group]
                others = (*self._queue, *self._under_way)
                request.alone &= self._jobs == 1 and not any(each.model.on_cpu for each in others)
                self._running[id(model)] += 1
                self._under_way += group
                return group, now
            due = min(due, until)
        return [], due

    def _joined(self, first: _Request) -> list[_Request]:
        group, items = [first], first.items
        if first.key is not None:
            for other in self._queue:
                if other is not first and other.key == first.key:
                    items += other.items
                    if items > first.model.usage.most:
                        break
                    group.append(other)
        return group

    def _run(self, group: Sequence[_Request]) -> None:
        group = [each for each in group if each.answer.set_running_or_notify_cancel()]
        if len(group) > 1 and self._run_joined(group):
            return
        for each in group:
            try:
                each.answer.set_result(
                    recovery.run(
                        self._sessions, each.model, each.feeds, each.ends, alone=each.alone
                    )
                )
            except BaseException as error:
                each.answer.set_exception(error)

    def _run_joined(self, group: Sequence[_Request]) -> bool:
        """Runs several as one; False where that failed, so that each is to run by itself."""
        model, ends = group[0].model, [each.ends for each in group]
        feeds = {
            name: np.concatenate([each.feeds[name] for each in group])
            if name in model.stacked
            else array
            for name, array in group[0].feeds.items()
        }
        known = [each for each in ends if each is not None]
        try:
            ran = recovery.run(
                self._sessions, model, feeds, max(known) if len(known) == len(ends) else None
            )
        except ModelError:
            # One of them may be at fault; the others are not to fail with it.
            return False
        total = sum(each.items for each in group)
        if any(tensor.shape[:1] != (total,) for tensor in ran.tensors.values()):
            model.usage.apart = False
            return False
        at = 0
        for each in group:
            part = {name: array[at : at + each.items] for name, array in ran.tensors.items()}
            each.answer.set_result(Ran(part, ran.model))
            at += each.items
        return True


def items_are_apart(model: LoadedModel) -> bool:
    """Whether the answer of one item of a batch stays the same beside another one.

    A graph can take the mean over its batch, and then one patient's image would change what is
    said of another's. Two made-up items are run alone and together, once a session.
    """
    usage = model.usage
    if usage.apart is None:
        random = np.random.default_rng(0)
        blank = {
            name: array[:1] if name in model.stacked else array
            for name, array in model.blank().items()
        }
        # Unlike in mean and spread, so that nothing that is shared between them stays unseen.
        first, second = (
            {
                name: (random.normal(middle, spread, array.shape)).astype(np.float32)
                if name in model.stacked
                else array
                for name, array in blank.items()
            }
            for middle, spread in ((0.0, 1.0), (2.0, 5.0))
        )
        both = {
            name: np.concatenate([first[name], second[name]]) if name in model.stacked else array
            for name, array in blank.items()
        }
        alone = [model.run(each, None) for each in (first, second)]
        beside = model.run(both, None)
        usage.apart = all(_alike(beside, number, each) for number, each in enumerate(alone))
    return usage.apart


def _alike(beside: Tensors, number: int, alone: Tensors) -> bool:
    for name, tensor in alone.items():
        if beside[name].shape[:1] != (2,) or beside[name].shape[1:] != tensor.shape[1:]:
            return False
        ours, theirs = tensor[0].astype(np.float64), beside[name][number].astype(np.float64)
        slack = _SAME * max(1e-6, float(np.abs(ours).max(initial=0.0)))
        if float(np.mean(np.abs(ours - theirs) > slack)) > _SAME:
            return False
    return True
