"""The list of what is shipped holds every pinned jar once, named as scanners name it."""

from __future__ import annotations

from local.jars import listed
from local.sbom import GROUPS, with_jars


def test_the_jars_stand_beside_the_packages() -> None:
    package = {"type": "library", "name": "redis", "purl": "pkg:pypi/redis@5.3.1"}
    found = with_jars({"bomFormat": "CycloneDX", "components": [package]})
    assert found["components"][0] == package
    jars = {one["purl"]: one["hashes"][0]["content"] for one in found["components"][1:]}
    pinned = [jar for group in GROUPS for jar in listed(group)]
    assert len(found["components"]) == 1 + len(pinned) == 1 + len(jars)
    assert "pkg:maven/org.apache.flink/flink-sql-connector-kafka@5.0.0-2.2" in jars
    assert sorted(jars.values()) == sorted(jar.sha256 for jar in pinned)
