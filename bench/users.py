"""Users: how much state they are, what checkpoints and a restore of it take, and whether many users make an event dearer.

100,000 users at full caps (50 actions in the session, 200 in the history, 250 ids, 64 hashes, 128 seen items) are put into the
real operator's state by records that name them (bench/filling.py). Checkpoints are then asked for one at a time. Cost per event
is CPU of the state path over all Flink processes, without ranking, for clicks and views spread evenly over 1,000 and over
1,000,000 typical users (30 actions each) in one job: few first, many after.
"""

from __future__ import annotations

import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from bench.filling import FULL, MARK, TYPICAL, prepared
from bench.machine import about
from bench.results import Cost, Sizes, Users
from bench.session import OUT
from bench.stack import err, own_stack, wait_for
from bench.state import flink_cpu_s, produce, producer, submit_state_job
from local.stack import Stack
from schemas import topics
from schemas.user_state import encode
from udfs.update_user_state import UID

_MIB = 1 << 20
_FILL_LIMIT_S = 1_200
_ONE_AT_A_TIME = {"execution.checkpointing.interval": "10 h"}


def run(quick: bool, repeat: int) -> Users:
    full, few, many, events = (2_000, 1_000, 20_000, 4_000) if quick else (100_000, 1_000, 1_000_000, 60_000)
    sizes, costs = [], []
    for number in range(repeat):
        sizes.append(_sizes(full))
        err.print(
            f"run {number + 1}: {sizes[-1].state_bytes:.0f} bytes per user, restored in {sizes[-1].restore_s:.1f} s"
        )
        costs.append(_costs(few, many, events))
        err.print(
            f"run {number + 1}: " + ", ".join(f"{one.users} users {one.cpu_us:.0f} µs/event" for one in costs[-1])
        )
    return Users(about(quick, repeat, full_users=full, few=few, many=many, events=events), sizes, costs)


def _sizes(users: int) -> Sizes:
    changed = users // 10
    with own_stack(flink_settings=_ONE_AT_A_TIME) as stack, _Job(stack) as job:
        begun = time.monotonic()
        job.fill(users, FULL)
        fill_s = time.monotonic() - begun
        full = job.checkpoint("FULL")
        produce(stack.connections(), changed, users)
        job.wait_read(users + changed)
        incremental = job.checkpoint("CONFIGURED")
        full_again = job.checkpoint("FULL")
        job.restart(full_again["external_path"])
        return Sizes(
            users=users,
            blob_bytes=len(encode(prepared("u:user-1", FULL, int(time.time() * 1000)))),
            state_bytes=round(full["state_size"] / users, 1),
            full_mb=round(full["checkpointed_size"] / _MIB, 1),
            full_s=full["end_to_end_duration"] / 1000,
            incremental_mb=round(incremental["checkpointed_size"] / _MIB, 1),
            incremental_s=incremental["end_to_end_duration"] / 1000,
            changed=changed,
            restore_s=job.initialising_ms() / 1000,
            fill_s=round(fill_s, 1),
        )


def _costs(few: int, many: int, events: int) -> list[Cost]:
    with own_stack() as stack, _Job(stack) as job:
        job.fill(few, TYPICAL)
        job.cost(few, events)  # warm-up
        found = [job.cost(few, events)]
        job.fill(many, TYPICAL)
        job.cost(many, events // 4)  # the sudden million leaves compactions behind
        return [*found, job.cost(many, events)]


class _Job:
    """The state path with the operator that takes prepared users."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._read, self._seed = stack, 0, 0
        stack.create_topics(topics.TOPICS)
        stack.create_topics([spec for spec in topics.TOPICS if spec.name in OUT], "users-")
        self._id = self._submit(None)
        self._consumer = KafkaConsumer(**stack.connections().kafka_python(), group_id=None, enable_auto_commit=False)
        name = f"users-{topics.INTERACTIONS}"
        self._partitions = [
            TopicPartition(name, number) for number in sorted(self._consumer.partitions_for_topic(name) or ())
        ]

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close(autocommit=False)

    def fill(self, users: int, shape: str) -> None:
        with producer(self._stack.connections()) as sender:
            for number in range(users):
                sender.send(topics.EVENTS, key=f"u:user-{number}".encode(), value=MARK + shape.encode())
        self.wait_read(self._read + users)

    def cost(self, users: int, events: int) -> Cost:
        self._seed += 1
        written, cpu, begun = self._written(), flink_cpu_s(self._stack), time.monotonic()
        produce(self._stack.connections(), events, users, self._seed)
        self.wait_read(self._read + events)
        seconds, used = time.monotonic() - begun, flink_cpu_s(self._stack) - cpu
        wait_for(lambda: self._written() > written, 60, "interactions")
        return Cost(users, events, round(used / events * 1e6, 1), round(events / seconds))

    def wait_read(self, records: int) -> None:
        """Until the state operator has taken so many records since it was submitted."""
        wait_for(lambda: int(self._vertex()["metrics"]["read-records"]) >= records, _FILL_LIMIT_S, f"{records} records")
        self._read = records

    def checkpoint(self, kind: str) -> dict[str, Any]:
        """FULL, or CONFIGURED, which is incremental: flink-conf/config.yaml. Flink's REST refuses the word INCREMENTAL."""
        rest, path = self._stack.flink.rest, f"/jobs/{self._id}/checkpoints"
        trigger = rest.post(path, {"checkpointType": kind})["request-id"]
        wait_for(lambda: rest.get(f"{path}/{trigger}")["status"]["id"] == "COMPLETED", 300, f"the {kind} checkpoint")
        number = rest.get(f"{path}/{trigger}")["operation"]["checkpointId"]
        # The history, not the checkpoint's own page: that is not found until a cache has caught up.
        wait_for(lambda: _completed(rest.get(path), number) is not None, 60, f"checkpoint {number}")
        details = _completed(rest.get(path), number)
        assert details is not None
        return details

    def restart(self, checkpoint: str) -> None:
        self._stack.cancel(self._id)
        self._id = self._submit(checkpoint)

    def initialising_ms(self) -> int:
        subtasks = self._stack.flink.rest.get(f"/jobs/{self._id}/vertices/{self._vertex()['id']}")["subtasks"]
        return max(int(one["status-duration"]["INITIALIZING"]) for one in subtasks)

    def _submit(self, checkpoint: str | None) -> str:
        job_id = submit_state_job(self._stack, "fill", "users-", checkpoint)
        self._stack.wait_running(job_id)
        return job_id

    def _vertex(self) -> dict[str, dict[str, str]]:
        vertices = self._stack.flink.rest.get(f"/jobs/{self._id}")["vertices"]
        found: dict[str, dict[str, str]] = next(one for one in vertices if UID in one["name"])
        return found

    def _written(self) -> int:
        return sum(self._consumer.end_offsets(self._partitions).values())


def _completed(checkpoints: dict[str, Any], number: int) -> dict[str, Any] | None:
    return next((one for one in checkpoints["history"] if one["id"] == number and one["status"] == "COMPLETED"), None)
