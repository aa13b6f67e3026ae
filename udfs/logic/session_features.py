"""Session features: a user's state as other services may use it. Made here for the stream and for whoever checks the stream."""

from __future__ import annotations

from schemas.ranking import SessionFeatures
from schemas.user_state import QUERY_MARK, TARGET_MARK, UserState, action_name
from udfs.logic.sessions import freshness


def session_features(
    key: str, state_epoch: int, list_no: int, state: UserState, vector: list[float]
) -> SessionFeatures:
    session = state.session()
    return SessionFeatures(
        key=key,
        state_epoch=state_epoch,
        list_no=list_no,
        updated_ms=state.updated_ms,
        session_start_ms=state.session_start_ms if state.tail.session_last_ms else None,
        session_items=[item_id.lstrip(QUERY_MARK + TARGET_MARK) for item_id in session.item_ids],
        session_actions=[action_name(code) for code in session.actions],
        session_ts_ms=list(session.ts_ms),
        history_length=len(state.history_slots),
        surfaces=list(state.tail.surfaces),
        freshness=freshness(state),
        pending=state.tail.pending,
        vector=vector,
    )
