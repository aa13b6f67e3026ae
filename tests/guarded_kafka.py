"""A broker that asks everybody who they are: SASL_SSL beside the plain port that only the test's own administrator uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from schemas.access import GROUP, TOPIC, TRANSACTION, Grant
from tests.certificates import Certificates

_KINDS = {TOPIC: ResourceType.TOPIC, GROUP: ResourceType.GROUP, TRANSACTION: ResourceType.TRANSACTIONAL_ID}
_OPERATIONS = {"DescribeConfigs": "DESCRIBE_CONFIGS"}


def properties(
    plain: int,
    guarded: int,
    controller: int,
    certificates: Certificates,
    folder: Path,
    plain_users: Mapping[str, str],
) -> dict[str, str]:
    """Broker settings. PLAIN's passwords stand in a file, so that the run directory holds none."""
    users = " ".join(f'user_{name}="{password}"' for name, password in plain_users.items())
    module = "org.apache.kafka.common.security"
    secrets = folder / "broker.properties"
    secrets.write_text(f"plain={module}.plain.PlainLoginModule required {users};\n")
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{guarded},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{guarded}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "config.providers": "file",
        "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f"${{file:{secrets}:plain}}",
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": certificates.keystore,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
    }


def admit(admin: KafkaAdminClient, scram_users: Mapping[str, str]) -> None:
    """Give users their passwords, for both SCRAM mechanisms."""
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        refused = admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(name, mechanism, password) for name, password in scram_users.items()]
        )
        assert not any(refused.values()), refused


def grant(admin: KafkaAdminClient, user: str, grants: Iterable[Grant]) -> None:
    """What `kafka-acls --add` would do with the lines of schemas.access."""
    acls = [
        ACL(
            f"User:{user}",
            "*",
            ACLOperation[_OPERATIONS.get(operation, operation.upper())],
            ACLPermissionType.ALLOW,
            ResourcePattern(
                _KINDS[one.kind],
                one.name,
                ACLResourcePatternType.PREFIXED if one.prefixed else ACLResourcePatternType.LITERAL,
            ),
        )
        for one in grants
        for operation in one.operations
    ]
    if acls:
        assert not admin.create_acls(acls)["failed"]
