"""Stops a run at a signal from a user or a cluster."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxstepper.reporting.note import note

# Within this time a second signal is the same one: `timeout` and some schedulers signal both a
# process and its group.
SECONDS_TO_ANOTHER = 0.5
# Ctrl-C; what schedulers send before they kill; what they send earlier if asked to.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


@contextmanager
def stop_on_signal(at_once: Callable[[], None] = lambda: None) -> Iterator[Callable[[], int]]:
    """Yields a function that says which signal has asked for a stop; 0 if none has.

    A second signal, if not too soon, calls `at_once` and ends the process. Python runs signal
    handlers only between its own instructions, and a device call may take minutes, so a thread
    watches for signals.
    """
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    received: list[int] = []
    began = 0.0
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        nonlocal began
        while byte := os.read(reader, 1):
            if byte[0] not in numbers:
                continue
            if received:
                if time.monotonic() - began > SECONDS_TO_ANOTHER:
                    at_once()
                    os._exit(128 + byte[0])
                continue
            began = time.monotonic()
            received.append(byte[0])
            name = signal.Signals(byte[0]).name
            note(f"{name}: stops and saves at the end of this device call; again to leave at once")

    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: received[0] if received else 0
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        watcher.join()
        os.close(reader)
