"""SBOM: what uv says of the locked Python packages, and the pinned jars beside them, as one CycloneDX document.

uv export --format cyclonedx1.5 … | python -m local.sbom > sbom.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from local.jars import Jar, listed

GROUPS = ("flink", "broker")


def component(jar: Jar) -> dict[str, Any]:
    group, artifact, version = jar.maven.split(":")
    purl = f"pkg:maven/{group}/{artifact}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "group": group,
        "name": artifact,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": jar.sha256}],
    }


def with_jars(document: dict[str, Any]) -> dict[str, Any]:
    jars = [component(jar) for group in GROUPS for jar in listed(group)]
    return document | {"components": [*document["components"], *jars]}


if __name__ == "__main__":
    json.dump(with_jars(json.load(sys.stdin)), sys.stdout, indent=1)
    print()
