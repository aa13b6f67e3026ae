"""TLS and SASL of the connector's Kafka clients, as properties that hold references to secrets and never a secret.

The properties become SQL text, plans, serialised operators and lines in logs. What stands there is `${env:NAME}` or
`${directory:/folder:file}`; Kafka's client resolves it when it is made, in the JVM of the JobManager or TaskManager that makes
it: so each of them needs the variable or the file.
"""

from __future__ import annotations

from schemas.connections import OAUTHBEARER, Connections

# The connector's jar holds Kafka's client under another name; system properties that the client looks for are renamed too.
SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka"
ALLOWED_URLS = f"{SHADED}.sasl.oauthbearer.allowed.urls"  # which token endpoints a JVM may ask

_LOGIN_MODULES = {
    "PLAIN": f"{SHADED}.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": f"{SHADED}.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": f"{SHADED}.common.security.scram.ScramLoginModule",
    OAUTHBEARER: f"{SHADED}.common.security.oauthbearer.OAuthBearerLoginModule",
}


def kafka_security(connections: Connections) -> dict[str, str]:
    """Client properties. Raises InvalidConnection where a secret is missing here or cannot be handed to Java."""
    properties = {"security.protocol": connections.security_protocol}
    if connections.ssl_cafile:
        properties |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": connections.ssl_cafile}
    if not connections.uses_sasl:
        return properties
    mechanism, username, password = connections.sasl_mechanism, connections.sasl_username, connections.sasl_password
    assert mechanism and username and password  # Connections has checked
    properties |= {
        "sasl.mechanism": mechanism,
        "config.providers": "env,directory",
        "config.providers.env.class": f"{SHADED}.common.config.provider.EnvVarConfigProvider",
        "config.providers.directory.class": f"{SHADED}.common.config.provider.DirectoryConfigProvider",
    }
    module = _LOGIN_MODULES[mechanism]
    if mechanism == OAUTHBEARER:
        return properties | {
            "sasl.jaas.config": f"{module} required;",
            "sasl.login.callback.handler.class": f"{SHADED}.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
            "sasl.oauthbearer.token.endpoint.url": connections.sasl_token_url or "",
            "sasl.oauthbearer.client.credentials.client.id": username,
            "sasl.oauthbearer.client.credentials.client.secret": password.kafka_reference(quoted=False),
            **({"sasl.oauthbearer.scope": connections.sasl_scope} if connections.sasl_scope else {}),
        }
    quoted = username.replace("\\", "\\\\").replace('"', '\\"')
    reference = password.kafka_reference(quoted=True)
    return properties | {"sasl.jaas.config": f'{module} required username="{quoted}" password="{reference}";'}
