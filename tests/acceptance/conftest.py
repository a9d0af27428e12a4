"""Fixtures of the tests on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import Place
from tests.acceptance.recovering import RECORDS_ENV
from tests.acceptance.runs import SETTINGS, Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A place of its own, and everybody's records in it."""
    run = Run(Place(tmp_path, **SETTINGS, **{RECORDS_ENV: str(tmp_path / "records")}))
    yield run
    run.place.clean()
    run.acks.close()
