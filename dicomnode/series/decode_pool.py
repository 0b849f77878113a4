"""Helper processes that decode frames, so that a crash of a codec ends a helper and nothing else.

A codec in C that is given hostile bytes may crash, loop or take all memory. A helper that does is
gone: the frame is refused, and the next frame finds a fresh helper. Helpers start when the first
frame is asked for, so that series without compression never pay for them. What a helper answers is
bytes of a checked shape, never a pickle.
"""

from __future__ import annotations

import json
import multiprocessing
import queue
import resource
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from dicomnode.series.decode import FrameReader, FrameRequest, PixelError

log = structlog.get_logger(__name__)

FRAME_SECONDS = 60
MEMORY_BYTES = 8 << 30
_CRASHED = "crashed their decoder or took too long"
_KINDS = frozenset("iuf")


class DecodePool:
    """A `decode.Decoder` over helper processes; threads may share it.

    Args:
        helpers: How many frames are decoded at once.
        frame_seconds: A frame that takes longer ends its helper.
        memory_bytes: Address space of a helper.
    """

    def __init__(
        self,
        helpers: int,
        frame_seconds: int = FRAME_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._limits = (frame_seconds, memory_bytes)
        self._size = helpers
        self._idle: queue.LifoQueue[_Helper] = queue.LifoQueue()
        self._helpers = [_Helper(self._limits) for _ in range(helpers)]
        for helper in self._helpers:
            self._idle.put(helper)
        self._threads = ThreadPoolExecutor(helpers, thread_name_prefix="decode")

    def __call__(self, requests: Sequence[FrameRequest]) -> Iterator[NDArray[Any]]:
        """The stored values of each frame in the order asked for.

        Raises:
            PixelError: A frame cannot be decoded.
        """
        under_way: deque[Future[NDArray[Any]]] = deque()
        try:
            for request in requests:
                under_way.append(self._threads.submit(self._decode, request))
                if len(under_way) > 2 * self._size:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the helpers; frames under way are waited for."""
        self._threads.shutdown(cancel_futures=True)
        for helper in self._helpers:
            helper.end()

    def _decode(self, request: FrameRequest) -> NDArray[Any]:
        helper = self._idle.get()
        try:
            return helper.decode(request)
        finally:
            self._idle.put(helper)


class _Helper:
    """One helper process, started when it is needed; one thread uses it at a time."""

    def __init__(self, limits: tuple[int, int]) -> None:
        self._limits = limits
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def decode(self, request: FrameRequest) -> NDArray[Any]:
        try:
            pipe = self._pipe or self._start()
            asked = [str(request.path), request.frame, request.colour]
            pipe.send_bytes(json.dumps(asked).encode())
            answer = json.loads(pipe.recv_bytes(1 << 16))
            if isinstance(answer, str):
                raise PixelError(answer)
            plane = _empty(answer)
            pipe.recv_bytes_into(plane.reshape(-1).view(np.uint8).data)
        except (EOFError, OSError, ValueError, multiprocessing.ProcessError) as error:
            self.end()
            log.warning("decoder.ended", frame=request.frame)
            raise PixelError(_CRASHED) from error
        return plane

    def end(self) -> None:
        """End the process, if there is one."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, *self._limits), name="decoder", daemon=True
        )
        self._process.start()
        theirs.close()
        return self._pipe


def _empty(answer: object) -> NDArray[Any]:
    """The array that an answer announces.

    Raises:
        ValueError: It announces no image.
    """
    if not isinstance(answer, list) or len(answer) not in (3, 4):
        raise ValueError("no announcement of an image")
    dtype, shape = np.dtype(str(answer[0])), tuple(answer[1:])
    if dtype.kind not in _KINDS or not all(0 < length < 1 << 16 for length in shape):
        raise ValueError("no announcement of an image")
    return np.empty(shape, dtype)


def _serve(pipe: Connection, frame_seconds: int, memory_bytes: int) -> None:
    """The main function of a helper: answer until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent decides when it ends
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core holds a patient's image
    reader = FrameReader()
    while True:
        try:
            path, *wanted = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        # The default action of SIGALRM ends the process, whatever a codec holds or loops in.
        signal.alarm(frame_seconds)
        try:
            plane = np.ascontiguousarray(reader.read(FrameRequest(Path(path), *wanted)))
        except PixelError as error:
            pipe.send_bytes(json.dumps(str(error)).encode())
        else:
            pipe.send_bytes(json.dumps([plane.dtype.str, *plane.shape]).encode())
            pipe.send_bytes(plane.reshape(-1).view(np.uint8).data)
        signal.alarm(0)
