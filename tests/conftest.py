"""Fixtures that several test modules share."""

import pytest

from edgeutils import datasets


@pytest.fixture
def mirror():
    """Folder with copies of the public data sets; skips where there is none."""
    folder = datasets.mirror()
    if folder is None:
        pytest.skip("no data mirror: set EDGE_DATA_MIRROR to a folder with the public data sets")
    return folder


@pytest.fixture
def at_hand():
    """Return a function that gives the files of a data set, or skips where it is missing."""

    def files(name):
        entry = datasets.status(name)[0]
        if entry.where == "missing":
            pytest.skip(f"{name} is missing: set EDGE_DATA_MIRROR to a folder that holds it")
        return datasets.files(name)

    return files
