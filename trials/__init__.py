"""Trials: what is done to a running engine to see that it holds.

traffic ─► load ─► the engine ─► account        did every event arrive, once, in its user's state?
open_loop ─► the engine ─► latency              how long from when an event was due until its list was there?
faults                                          what breaks while all that goes on
"""
