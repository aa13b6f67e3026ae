"""Samples: made-up user states to hold two implementations of the ranker against each other. Edges first, then random ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from models.featurise import HOUR_MS
from models.vocabulary import Vocabulary
from schemas.user_state import ACTIONS, HISTORY_CAP, QUERY_MARK, SESSION_CAP, TARGET_MARK, UserState

NOW_MS = 1_768_938_120_000
# (session, history) lengths that break things
EDGES = ((0, 0), (0, 1), (1, 0), (1, 1), (0, HISTORY_CAP), (SESSION_CAP, 0), (SESSION_CAP, HISTORY_CAP), (2, 3))


def sample_states(vocabulary: Vocabulary, count: int, seed: int = 1) -> Iterator[UserState]:
    """`count` states: EDGES, then lengths drawn at random."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for number in range(count):
        lengths = (
            EDGES[number]
            if number < len(EDGES)
            else (int(rng.integers(SESSION_CAP + 1)), int(rng.integers(HISTORY_CAP + 1)))
        )
        yield sample_state(vocabulary, rng, *lengths)


def sample_state(vocabulary: Vocabulary, rng: np.random.Generator, n_session: int, n_history: int) -> UserState:
    """Known and unknown items, searches and follows, counters with and without overflow."""
    state, data = UserState(), vocabulary.data
    known = [data.items[int(place)] for place in rng.integers(0, len(data.items), 60)]
    marked = [
        QUERY_MARK + next(iter(data.lexicon), "query"),
        TARGET_MARK + data.subcategories[0],
        TARGET_MARK + "nobody",
        "unknown-item",
    ]
    slots = [state.slot_of(name) for name in [*known, *marked]]
    state.session_start_ms = NOW_MS - 20 * 60_000
    state.tail.session_last_ms = NOW_MS if n_session else 0
    state.session_slots = array("B", rng.choice(slots, n_session).tolist())
    state.session_actions = bytearray(_actions(rng, n_session))
    state.session_ts = array("i", np.sort(rng.integers(0, 20 * 60_000, n_session)).tolist())
    state.history_slots = array("B", rng.choice(slots, n_history).tolist())
    state.history_actions = bytearray(_actions(rng, n_history))
    state.history_ts = array(
        "I", np.sort(NOW_MS // 1000 - rng.integers(3600, 60 * 24 * HOUR_MS // 1000, n_history)).tolist()
    )
    state.history_no = n_history
    for slot in rng.choice(slots, 10).tolist():
        state.count(slot, int(rng.integers(4)), int(rng.integers(1, 20)))
    return state


def _actions(rng: np.random.Generator, count: int) -> bytes:
    kinds, buckets = rng.choice(list(ACTIONS.values()), count), rng.integers(0, 8, count)
    return bytes((kinds | buckets << 4).astype(np.uint8))
