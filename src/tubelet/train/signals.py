"""What reaches a run from outside: signals, and the problems of other processes."""

import signal
import threading
from types import FrameType
from typing import Any


class Elsewhere(RuntimeError):
    """Another process met a problem, and says so itself; this one had none."""


class Signals:
    """Remembers SIGINT, SIGTERM and SIGUSR1, so that the step under way is finished and saved; a second one stops at
    once. SIGUSR1 is what schedulers send some minutes before they end a job."""

    KINDS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))

    def __init__(self) -> None:
        self.heard = 0  # by this process
        self.agreed: int | None = None  # of several processes: what one of them had heard when the step began
        self.before: dict[int, Any] = {}

    @property
    def number(self) -> int:
        """The signal to stop after this step for; 0: none."""
        return self.heard if self.agreed is None else self.agreed

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in self.KINDS:
                self.before[number] = signal.signal(number, self.remember)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def remember(self, number: int, _: FrameType | None) -> None:
        """Takes note of a signal."""
        self.heard = number
        if number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.before[number])
