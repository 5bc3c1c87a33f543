"""What pytest does around all tests, so that they find under it what trial gives them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run in a temporary folder: ``TestCase.mktemp`` makes its own in the current one."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("tests"))
    yield
    os.chdir(before)
