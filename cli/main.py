"""riffle: the command line. Each command is one thin file."""

from __future__ import annotations

import typer

from cli import (
    backfill,
    chaos,
    cluster,
    dead_letters,
    doctor,
    evaluate,
    experiments,
    explaining,
    features,
    feed,
    importing,
    init,
    load,
    ope,
    policy,
    redis,
    replay,
    send,
    shop,
    trace,
    train,
    training,
    training_parity,
)

app = typer.Typer(
    name="riffle",
    help="Real-time personalisation on Flink: a click goes in, the user's next ranked list comes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("run")(shop.run)
app.command("up")(cluster.up)
app.command("submit")(cluster.submit)
app.command("down")(cluster.down)
app.command("send")(send.send)
app.command("replay")(replay.replay)
app.command("init")(init.init)
app.command("replay-log")(importing.replay_log)
app.command("feed")(feed.feed)
app.command("backfill")(backfill.backfill)
app.command("explain")(feed.explain)
app.command("why-not")(explaining.why_not)
app.command("trace")(trace.trace)
app.command("doctor")(doctor.doctor)
app.command("load")(load.load)
app.command("chaos")(chaos.chaos)
app.command("parity")(training_parity.parity)
app.command("activate")(cluster.activate)
app.command("train")(train.train)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(experiments.app, name="experiments")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(features.app, name="features")
app.add_typer(ope.app, name="ope")
app.add_typer(policy.app, name="policy")
app.add_typer(redis.app, name="redis")
app.add_typer(training.app, name="training-rows")

if __name__ == "__main__":
    app()
