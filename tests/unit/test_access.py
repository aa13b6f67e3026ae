"""Each principal's rights are what job and clients do, and docs/security.md shows exactly the lines that grant them."""

from __future__ import annotations

import re
from pathlib import Path

from jobs import beliefs, experiments, item_aggregates, top_lists, training_log
from jobs.personalise import NAME, RANKED_TOPICS, RECORDS_TOPICS
from schemas import access, topics
from schemas.connections import SECRETS, Connections
from udfs.outputs import EXACTLY_ONCE_TOPICS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()


def may(principal: str, operation: str) -> set[str]:
    return {
        grant.name
        for grant in access.kafka_grants(principal, "")
        if grant.kind == access.TOPIC and operation in grant.operations
    }


def test_the_job_may_write_what_it_writes_and_read_what_it_reads() -> None:
    assert may(access.JOB, "Write") == {
        *RANKED_TOPICS,
        *RECORDS_TOPICS,
        *EXACTLY_ONCE_TOPICS,
        topics.ITEM_FEATURES,
        *experiments.TOPICS,
        topics.TOP_LISTS,
        topics.BELIEFS,
    }
    assert may(access.JOB, "Read") == {
        topics.EVENTS,
        topics.RANK_REQUESTS,
        topics.IDENTITY,
        topics.CONTROL,
        topics.ITEMS,
        topics.INTERACTIONS,
        topics.ITEM_FEATURES,
        topics.RANKED_FEED,
        topics.TOP_LISTS,
        topics.BELIEFS,
    }
    others = {(grant.kind, grant.name, grant.prefixed) for grant in access.kafka_grants(access.JOB, "eu-")}
    group = f"eu-riffle-{NAME}"
    aggregates = f"eu-riffle-{item_aggregates.NAME}"
    proof = f"eu-riffle-{experiments.NAME}"
    learnt = f"eu-riffle-{beliefs.NAME}"
    chosen = f"eu-riffle-{top_lists.NAME}"
    wanted = {(access.GROUP, name, False) for name in (group, aggregates, proof, learnt, chosen)} | {
        (access.TRANSACTION, group, True)
    }
    assert wanted <= others


def test_the_training_log_may_write_what_it_writes_and_read_what_it_reads() -> None:
    assert may(access.TRAINING, "Write") == {*training_log.TOPICS}
    assert may(access.TRAINING, "Read") == {topics.INTERACTIONS, topics.RANKED_FEED, topics.RANKINGS_LOG}
    others = {(grant.kind, grant.name, grant.prefixed) for grant in access.kafka_grants(access.TRAINING, "eu-")}
    group = f"eu-riffle-{training_log.NAME}"
    assert {(access.GROUP, group, False), (access.TRANSACTION, group, True)} <= others


def test_everything_granted_is_in_the_namespace() -> None:
    for principal in access.PRINCIPALS:
        assert all(grant.name.startswith("eu-") for grant in access.kafka_grants(principal, "eu-"))
        line = access.redis_line(principal, "eu-", "x")
        assert line is None or re.findall(r"~(\S+)", line) == ["eu-riffle:*"]


def test_a_reader_has_no_business_on_kafka_and_a_sender_none_in_redis() -> None:
    assert access.kafka_grants(access.READER, "") == []
    assert access.redis_line(access.SENDER, "", "x") is None


def test_the_page_shows_the_lines() -> None:
    shown = re.findall(r"^```\n(.*?)^```", PAGE, flags=re.M | re.S)
    lines = [line for block in shown for line in block.splitlines() if line.startswith(("--add", "ACL SETUSER eu-"))]
    wanted = []
    for principal in access.PRINCIPALS:
        wanted += access.kafka_lines(principal, "eu-", f"eu-{principal}")
    for principal in access.PRINCIPALS:
        line = access.redis_line(principal, "eu-", f"eu-{principal}")
        wanted += [f"{line} ><password>"] if line else []
    assert lines == wanted


def test_the_page_explains_every_setting() -> None:
    table = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `RIFFLE_")]
    named = re.findall(r"`RIFFLE_(\w+)`", " ".join(table))
    assert sorted(named) == sorted(field.upper() for field in Connections.__struct_fields__)
    secrets = [row for row in PAGE.splitlines() if row.startswith("| `RIFFLE_") and "**secret**" in row]
    assert sorted(re.findall(r"`RIFFLE_(\w+)`", " ".join(secrets))) == sorted(name.upper() for name in SECRETS)
