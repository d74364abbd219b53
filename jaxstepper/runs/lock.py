"""One writer at a time in the folder of a run.

The lock is the operating system's (`flock`), which a dying process lets go of, however it dies; NFS
passes it on to its server. Some file systems of clusters lock for one machine only. So the writer
also counts up in a file beside the lock, and who comes from another machine first looks on for a
while: a number that changes is a writer that lives. Clocks of two machines are never compared.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jaxstepper.errors import UserError

LOCK, HOLDER = ".lock", ".writer"
"""In the folder of a run that is being written: the lock, and who holds it."""

# Seconds from beat to beat of a writer, and how long another machine watches for one.
BEAT, WATCH = 5.0, 20.0

# What a file system says that has no locks.
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
READINGS = 10


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps other writers out of the folder of a run, which it makes if need be.

    Raises:
        UserError: somebody else writes there, or the folder cannot be written.
    """
    made = [each for each in (run, *run.parents) if not each.exists()]
    try:
        with _held(run):
            yield
    finally:
        with suppress(OSError):  # not empty, as a rule
            for folder in made:
                folder.rmdir()


@contextmanager
def _held(run: Path) -> Iterator[None]:
    lock, holder = FileLock(run / LOCK, fallback_to_soft=False), run / HOLDER
    can_lock = True
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise _refusal(run, _read(holder)) from None
    except OSError as error:
        can_lock = error.errno not in WITHOUT_LOCKS
        if can_lock:
            why = f"cannot be locked ({error.strerror}); choose another place"
            raise UserError(f"{run}: {why}") from error
    try:
        if other := _alive(holder, can_lock):
            raise _refusal(run, other)
        with _beating(holder):
            yield
    finally:
        # The file goes while it is locked: who has it open by then finds that it has no name left.
        with suppress(OSError):
            (run / LOCK).unlink()
        lock.release()


@contextmanager
def _beating(holder: Path) -> Iterator[None]:
    """Says who writes, and that it lives, until the block ends."""
    stop = threading.Event()
    about = {"host": socket.gethostname(), "pid": os.getpid(), "since": int(time.time())}

    def beat(count: int) -> None:
        # A full disk must not end the run; the lock itself needs no room.
        with suppress(OSError):
            holder.write_text(json.dumps(about | {"beat": count}))

    def go_on() -> None:
        count = 1
        while not stop.wait(BEAT):
            beat(count)
            count += 1

    beat(0)
    heart = threading.Thread(target=go_on, daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        with suppress(OSError):
            holder.unlink()


def _alive(holder: Path, can_lock: bool) -> dict[str, Any]:
    """The writer that shows that it lives, though it does not hold the lock; else empty.

    On this machine no such writer can be, if the file system can lock.
    """
    first = _read(holder)
    if not first or (can_lock and first.get("host") == socket.gethostname()):
        return {}
    end = time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(WATCH / 20)
        now = _read(holder)
        if now and now != first:
            return now
    return {}


def _read(holder: Path) -> dict[str, Any]:
    """Who a file says writes; empty if it does not say, even when asked again."""
    for _ in range(READINGS):
        try:
            about = json.loads(holder.read_text())
            return about if isinstance(about, dict) else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            time.sleep(0.1)  # it is being written at this moment
    return {}


def _refusal(run: Path, about: dict[str, Any]) -> UserError:
    who = "another process"
    if about:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about.get("since", 0)))
        who = f"process {about.get('pid')} on {about.get('host')}, since {since},"
    return UserError(
        f"{run}: {who} writes there; wait for its end, stop it, or name another run with "
        "--save-name or --out"
    )
