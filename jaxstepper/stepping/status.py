"""How a rollout stands, as a number on the device, and the word for it on the host."""

from typing import Any

RUNNING = 0
ENDED = 1
STALLED = 2
"""The rule's steps have become too short to get anywhere, or are not above 0."""
NOT_FINITE = 3
"""The rule's step is infinite or not a number."""

WORDS = ("running", "ended", "stalled", "not finite")


def word(status: Any) -> str:
    """The word for a status `[]`."""
    return WORDS[int(status)]
