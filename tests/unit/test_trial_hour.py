"""The simulated hour, a small one: killed once for real, it is row for row the oracle's; and the comparison can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from trials import hour


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hour")
    rows, different, _ = hour.run(place, events=1_500, kills=1)
    assert rows > 500
    assert different == 0
    return place


def test_an_oracle_that_is_wrong_by_a_line_differs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, lists = hour.simulated(1_500)
    assert hour.written(folder / "out") == hour.oracle(made, lists)
    monkeypatch.setitem(hour.WINDOWS_MS, "click", 60_000)
    assert hour.written(folder / "out") != hour.oracle(made, lists)


def test_the_hour_holds_what_goes_wrong() -> None:
    made, _ = hour.simulated(3_000)
    values = [one.value for one in made]
    assert len(values) > len(set(values))
    assert any(not value.endswith(b"}") for value in values)
    assert any(b"nobody-made-it" in value for value in values)
