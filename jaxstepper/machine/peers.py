"""Whether the other processes of a run have come, and whether they are still there.

JAX ends a process with a log of C++ if another one does not come or dies. So, before JAX connects,
the processes call the roll over TCP, at the coordinator's own port, and keep these connections: the
operating system closes them when a process dies, however it dies, and probes them in case a machine
or the network does. JAX's own connection to process 0 goes through a relay, which keeps it open
when process 0 is gone, so that Python can speak first.
"""

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from jaxstepper.errors import UserError

HEARTBEAT = 30
"""Seconds without an answer after which a machine, or the way to it, counts as gone."""

# Seconds that a process gets to say itself what another one has failed of.
GRACE = 20.0
# Seconds that the news of another's end may take beside the error that it causes.
NEWS = 3.0
RETRY = 0.2
# The most bytes of a line.
LONGEST = 1_000_000


def split(address: str) -> tuple[str, int]:
    """Host and port of an address HOST:PORT, whose host may be in brackets."""
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


@dataclass
class Peers:
    """The connections of this process: of process 0 to all others, of the others to process 0.

    Attributes:
        address: that of process 0, HOST:PORT.
        count: the number of processes.
        index: which this is.
        ends: gets how another process ended (in words, the exit code for this one, and whether it
            was killed), from a thread; it must end this process.
        names: what to call each process.
    """

    address: str
    count: int
    index: int
    ends: Callable[[str, int, bool], NoReturn]
    names: dict[int, str] = field(default_factory=dict)
    _lines: dict[int, socket.socket] = field(default_factory=dict)
    _done: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _news: threading.Event = field(default_factory=threading.Event)
    _verdict: tuple[str, int, bool] = ("", 0, False)
    _watcher: threading.Thread | None = None

    # --- the roll call ---------------------------------------------------------------------------

    def call_roll(self, seconds: float) -> None:
        """Returns once all processes have come.

        Raises:
            UserError: one has not come in time, or they disagree on who they are.
        """
        self.names = {self.index: f"{socket.gethostname()}, pid {os.getpid()}"}
        deadline = time.monotonic() + seconds
        try:
            if self.index == 0:
                self._wait_for_all(deadline, seconds)
            else:
                self._come(deadline, seconds)
        except UserError:
            self.close()
            raise
        for line in self._lines.values():
            line.settimeout(None)
            _probe(line)

    def _wait_for_all(self, deadline: float, seconds: float) -> None:
        _, port = split(self.address)
        try:
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            both = family == socket.AF_INET6
            door = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise UserError(
                f"{self.address}: process 0 cannot listen there ({os.strerror(error.errno or 0)}); "
                "choose another port"
            ) from error
        with door:
            while missing := [i for i in range(1, self.count) if not self._is_there(i)]:
                self._send_all("missing " + " ".join(map(str, missing)))
                door.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    line, _ = door.accept()
                except TimeoutError:
                    break
                self._welcome(line)
        if missing:
            refusal = _missing(missing, self.count, seconds)
            self._send_all(f"refused {refusal}")
            raise UserError(f"{self.address}: {refusal}")
        self._send_all("all " + "\t".join(self.names[i] for i in range(self.count)))

    def _welcome(self, line: socket.socket) -> None:
        line.settimeout(RETRY * 10)
        words = _read_line(line).split(" ", 3)
        if len(words) != 4 or words[0] != "jaxstepper" or not (words[1] + words[2]).isdecimal():
            line.close()  # something else that looks for open ports
            return
        index, count = int(words[1]), int(words[2])
        before = self.names.get(index)
        if count != self.count or not index < count or self._is_there(index):
            why = f"is told of {count} processes, and process 0 of {self.count}"
            if count == self.count:
                why = f"has come twice ({before}; {words[3]})"
            refusal = f"process {index} {why}; check --num-processes and --process-id"
            _send(line, f"refused {refusal}")
            line.close()
            self._send_all(f"refused {refusal}")
            raise UserError(f"{self.address}: {refusal}")
        self.names[index], self._lines[index] = words[3], line

    def _is_there(self, index: int) -> bool:
        """Whether a process has come, and not left again."""
        if index not in self._lines:
            return index == self.index
        self._lines[index].setblocking(False)
        try:
            return self._lines[index].recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _come(self, deadline: float, seconds: float) -> None:
        line = self._reach(deadline, seconds)
        self._lines[0] = line
        _send(line, f"jaxstepper {self.index} {self.count} {self.names[self.index]}")
        missing: list[int] = []
        # Process 0 says it first, if it waits no longer than this one.
        while (left := deadline + RETRY * 10 - time.monotonic()) > 0:
            line.settimeout(left)
            what, _, rest = _read_line(line).partition(" ")
            if what == "all":
                self.names = dict(enumerate(rest.split("\t")))
                return
            if what == "refused":
                raise UserError(f"{self.address}: {rest}")
            if what == "missing":
                missing = [int(word) for word in rest.split()]
            elif not what and time.monotonic() < deadline:
                line.close()
                time.sleep(RETRY)  # process 0 has left; another may come
                return self._come(deadline, seconds)
        if not missing:
            raise UserError(
                f"{self.address}: what answers there is not process 0 of this run; check host and "
                "port"
            )
        raise UserError(f"{self.address}: {_missing(missing, self.count, seconds)}")

    def _reach(self, deadline: float, seconds: float) -> socket.socket:
        host, port = split(self.address)
        while True:
            try:
                left = max(deadline - time.monotonic(), RETRY)
                return socket.create_connection((host, port), timeout=min(left, 5.0))
            except OSError as error:
                if time.monotonic() + RETRY >= deadline:
                    reason = error.strerror or str(error)
                    raise UserError(
                        f"{self.address}: nobody answers there within {seconds:g} s ({reason}); "
                        f"process 0 of {self.count} is awaited: start it, check its host and port, "
                        "or give more --join-timeout"
                    ) from error
                time.sleep(RETRY)

    # --- the watch -------------------------------------------------------------------------------

    def watch(self) -> None:
        """Watches the others from now on, in a thread."""
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, line in self._lines.items():
                selector.register(line, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._hear(key.data):
                        selector.unregister(key.fileobj)

    def _hear(self, index: int) -> bool:
        """Reads what a process says; returns whether it may say more."""
        what, _, rest = _read_line(self._lines[index]).partition(" ")
        if what == "done":
            self._done.add(index)
            return True
        if not what and index in self._done:
            return False
        if what not in ("left", "lost"):
            what, rest = "lost", f"{index} "
        if self.index == 0:  # which alone has a line to every other
            self._send_all(f"{what} {rest}")
        who, _, how = rest.partition(" ")
        words = f"process {who} of {self.count} ({self.names.get(int(who), 'unknown')})"
        if what == "left":
            self._decide(f"{words} has left with exit code {how}; its own line says why", int(how))
            self._end_after(GRACE)
        else:
            self._decide(f"{words} is gone", 1, killed=True)
            self._end_after(0.0)
        return False

    def _decide(self, words: str, code: int, killed: bool = False) -> None:
        with self._lock:
            if not self._news.is_set():
                self._verdict = words, code, killed
                self._news.set()

    def _end_after(self, seconds: float) -> None:
        time.sleep(seconds)
        self._end()

    def _end(self) -> None:
        # Both the watcher and who met an error may come here, and only the first is to speak.
        with self._ending:
            self.ends(*self._verdict)

    def end_if_another_has(self) -> None:
        """Ends this process if an error of this moment is another's end."""
        if self._news.wait(NEWS):
            self._end()

    def tell(self, words: str) -> None:
        """Says "done" to the others, if nothing is left to do, or "left CODE"."""
        if words == "done":
            self._send_all("done")
        else:
            what, code = words.split()
            self._send_all(f"{what} {self.index} {code}")

    def close(self) -> None:
        """Gives the connections up, as the end of the process does."""
        for line in self._lines.values():
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        if self._watcher is not None:
            self._watcher.join()
        for line in self._lines.values():
            line.close()

    def _send_all(self, words: str) -> None:
        for line in self._lines.values():
            with suppress(OSError):
                _send(line, words)


def _probe(line: socket.socket) -> None:
    """Lets the system ask now and then whether the other end is there."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    every = HEARTBEAT // 6
    for name, value in (
        ("TCP_KEEPIDLE", every),
        ("TCP_KEEPINTVL", every),
        ("TCP_KEEPCNT", 5),
        ("TCP_USER_TIMEOUT", 1000 * HEARTBEAT),
    ):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(line: socket.socket, words: str) -> None:
    line.sendall(f"{words}\n".encode())


def _read_line(line: socket.socket) -> str:
    """The next line, without its end; empty if the other end is gone, or too late."""
    said = b""
    try:
        while not said.endswith(b"\n"):
            byte = line.recv(1)
            if not byte or len(said) > LONGEST:
                return ""
            said += byte
    except OSError:
        return ""
    return said.decode(errors="replace").rstrip("\n")


def _missing(missing: list[int], count: int, seconds: float) -> str:
    one = len(missing) == 1
    who = f"process{'' if one else 'es'} {', '.join(map(str, missing))}"
    return (
        f"{who} of {count} {'has' if one else 'have'} not come within {seconds:g} s; start "
        f"{'it' if one else 'them'}, check that this port can be reached from there, or give more "
        "--join-timeout"
    )


def relay(address: str) -> str:
    """An address of this machine that stands for another one until this process ends.

    When the far end goes, the near end stays open and silent.
    """
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            near, _ = door.accept()
            try:
                far = socket.create_connection(split(address), timeout=HEARTBEAT)
            except OSError:
                near.close()  # it tries again
                continue
            far.settimeout(None)
            threading.Thread(target=_pass_on, args=(near, far, True), daemon=True).start()
            threading.Thread(target=_pass_on, args=(far, near, False), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{door.getsockname()[1]}"


def _pass_on(source: socket.socket, sink: socket.socket, closes: bool) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    if closes:
        sink.close()
        source.close()
