"""The roll call of processes, and what each hears of the others; threads stand in for processes."""

import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from jaxstepper.errors import UserError
from jaxstepper.machine import peers
from jaxstepper.machine.peers import Peers, relay

PATIENCE = 60.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def heard():
    """What each process was told: its index, and the words, code and manner of another's end."""
    return queue.Queue()


def calls_roll(peer, seconds=PATIENCE):
    """The refusal of a roll call, or empty."""
    try:
        peer.call_roll(seconds)
    except UserError as error:
        return str(error)
    return ""


def call_roll_of(address, members, heard=None, seconds=PATIENCE):
    """Processes (index, count) that call the roll at once, and the refusal of each."""

    def process(index, count):
        return Peers(address, count, index, lambda *told: heard.put((index, *told)))

    team = [process(*member) for member in members]
    with ThreadPoolExecutor(len(team)) as pool:
        refusals = list(pool.map(lambda peer: calls_roll(peer, seconds), team))
    return team, refusals


@pytest.fixture
def three(address, heard, monkeypatch):
    monkeypatch.setattr(peers, "GRACE", 0.0)
    team, refusals = call_roll_of(address, [(0, 3), (1, 3), (2, 3)], heard)
    assert refusals == [""] * 3
    for peer in team:
        peer.watch()
    yield team
    for peer in team:
        peer.close()


def die(peer):
    """As the system does for a process that is gone, and hears no more."""
    peer._hear = lambda index: False
    for line in peer._lines.values():
        line.shutdown(socket.SHUT_RDWR)


def told_to(heard, *indices):
    """What these are told first, which must be the same."""
    first = {}
    while not first.keys() >= set(indices):
        index, *told = heard.get(timeout=PATIENCE)
        first.setdefault(index, tuple(told))
    (told,) = {first[index] for index in indices}
    return told


def test_all_know_all_names_after_the_roll_call(three):
    names = {index: f"{socket.gethostname()}, pid" for index in range(3)}
    for peer in three:
        assert peer.names.keys() == names.keys()
        assert all(name.startswith(names[index]) for index, name in peer.names.items())


@pytest.mark.parametrize("victim", [1, 2])
def test_survivors_hear_which_process_is_gone(victim, three, heard):
    die(three[victim])
    words, code, killed = told_to(heard, *sorted({0, 1, 2} - {victim}))
    assert words.startswith(f"process {victim} of 3 (") and words.endswith(" is gone")
    assert (code, killed) == (1, True)


def test_survivors_hear_that_process_0_is_gone(three, heard):
    die(three[0])
    words, code, killed = told_to(heard, 1, 2)
    assert words.startswith("process 0 of 3 (") and words.endswith(" is gone")
    assert (code, killed) == (1, True)


@pytest.mark.parametrize("leaver", [0, 2])
def test_a_failure_goes_round_with_its_exit_code(leaver, three, heard):
    three[leaver].tell("left 7")
    words, code, killed = told_to(heard, *sorted({0, 1, 2} - {leaver}))
    assert f"process {leaver} of 3 (" in words and "has left with exit code 7" in words
    assert (code, killed) == (7, False)


def test_who_ends_as_it_should_is_not_missed(three, heard):
    three[1].tell("done")
    die(three[1])
    # Whoever is lost after that is the first that the others hear of.
    die(three[2])
    words, *_ = told_to(heard, 0)
    assert words.startswith("process 2 of 3 (")


def test_an_error_of_this_moment_is_put_down_to_another_end(three, heard, monkeypatch):
    monkeypatch.setattr(peers, "NEWS", 0.0)
    three[1].end_if_another_has()
    assert heard.empty()
    die(three[0])
    told = told_to(heard, 1, 2)
    three[1].end_if_another_has()
    assert told_to(heard, 1) == told


def test_of_two_threads_that_would_end_the_process_one_speaks(monkeypatch):
    """The first one ends the process, so that it does not come back before the other may speak."""
    monkeypatch.setattr(peers, "NEWS", PATIENCE)
    inside, both = [], threading.Barrier(2)

    def ends(words, code, killed):
        inside.append(words)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.5)  # which a second one in here would not let break
        assert both.broken

    peer = Peers("127.0.0.1:1", 2, 0, ends)
    peer._decide("process 1 of 2 is gone", 1, killed=True)
    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(peer.end_if_another_has), pool.submit(peer._end_after, 0.0)]
        assert [each.result() for each in ended] == [None, None]
    assert len(inside) == 2


def test_the_missing_are_named_to_all_who_came(address):
    _, refusals = call_roll_of(address, [(0, 4), (2, 4)], seconds=1.0)
    for refusal in refusals:
        assert refusal.startswith(f"{address}: processes 1, 3 of 4 have not come within 1 s; ")
        assert "--join-timeout" in refusal


def test_nobody_at_the_address(address):
    _, (refusal,) = call_roll_of(address, [(1, 2)], seconds=0.5)
    assert refusal.startswith(f"{address}: nobody answers there within 0.5 s (Connection refused)")
    assert "process 0 of 2 is awaited" in refusal and "--join-timeout" in refusal


def test_an_address_that_another_program_has_taken():
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        _, (refusal, unanswered) = call_roll_of(address, [(0, 2), (1, 2)], seconds=0.5)
    assert refusal == (
        f"{address}: process 0 cannot listen there (Address already in use); choose another port"
    )
    assert "what answers there is not process 0 of this run" in unanswered


def test_processes_that_disagree_on_their_number(address):
    _, refusals = call_roll_of(address, [(0, 2), (1, 3)])
    for refusal in refusals:
        assert "process 1 is told of 3 processes, and process 0 of 2" in refusal


def test_a_process_that_comes_twice(address):
    _, refusals = call_roll_of(address, [(0, 3), (1, 3), (1, 3)])
    for refusal in refusals:
        assert "process 1 has come twice (" in refusal and "--process-id" in refusal


def test_who_leaves_before_the_roll_is_complete_may_come_again(address):
    first = Peers(address, 2, 0, lambda *_: None)
    with ThreadPoolExecutor(1) as pool:
        refusal = pool.submit(calls_roll, first)
        host, port = peers.split(address)
        for words in (b"GET / HTTP/1.1\n", b"jaxstepper x 2 me\n"):  # of strangers
            while True:
                try:
                    line = socket.create_connection((host, port))
                    break
                except ConnectionRefusedError:
                    continue
            line.sendall(words)
            assert peers._read_line(line).startswith(("", "missing"))
            line.close()
        second = Peers(address, 2, 1, lambda *_: None)
        assert calls_roll(second) == ""
        assert refusal.result() == ""
    first.close()
    second.close()


def test_addresses():
    assert peers.split("node1:80") == ("node1", 80)
    assert peers.split("[::1]:80") == ("::1", 80)


def test_a_relay_passes_on_and_stays_when_the_far_end_goes():
    with socket.create_server(("127.0.0.1", 0)) as far:
        near = socket.create_connection(
            peers.split(relay(f"127.0.0.1:{far.getsockname()[1]}")), timeout=PATIENCE
        )
        other, _ = far.accept()
        near.sendall(b"question")
        assert other.recv(100) == b"question"
        other.sendall(b"answer")
        assert near.recv(100) == b"answer"
        other.close()
    near.settimeout(0.3)
    with near, pytest.raises(TimeoutError):  # neither closed nor reset
        near.recv(1)
