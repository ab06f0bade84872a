"""The metadata of real models, unpacked, if it is there."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "models" / "models.tar.xz"


@pytest.fixture(scope="session")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the models' folders."""
    if not ARCHIVE.is_file():
        pytest.skip("needs the metadata of real models in ../shared/models beside the checkout")
    folder = tmp_path_factory.mktemp("metadata")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder
