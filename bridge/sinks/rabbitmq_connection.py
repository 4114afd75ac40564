"""pika's connection, whose frames leave together. By itself pika makes a system call, and so a packet, of each frame: three
for each message."""

from typing import Any, Final

import pika

from bridge.sinks.rabbitmq_loop import StepLoop

GATHERED_BYTES: Final = 64 << 10
"""So much leaves at once: of more, what the socket does not take would be copied again and again."""


class Connection(pika.SelectConnection):  # type: ignore[misc]
    def __init__(self, settings: pika.URLParameters, loop: StepLoop, **callbacks: Any) -> None:
        self._own_loop = loop
        self._frames: list[bytes] = []
        self._size = 0
        super().__init__(settings, custom_ioloop=loop, **callbacks)

    def _adapter_emit_data(self, data: bytes) -> None:
        """pika's, called for each frame: it leaves in the loop's next step, or when there is enough."""
        if not self._frames:
            self._own_loop.add_callback(self._leave)
        self._frames.append(data)
        self._size += len(data)
        if self._size >= GATHERED_BYTES:
            self._leave()

    def _leave(self) -> None:
        frames, self._frames, self._size = self._frames, [], 0
        if frames and self._transport is not None:
            super()._adapter_emit_data(b"".join(frames))
