"""What the tests of runs over an engine share."""

import shutil

import pytest

from fl_integration.site import pkcs8
from fl_integration.studies.heart import findings
from fl_integration.studies.heart.federation import running
from fl_integration.studies.heart.federation.folders import Federation, founded
from tests.fl_integration.studies.heart.following import FOUR, THREE


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Looks without pauses; keys are made once for each number of hospitals, and their folders copied."""
    made = {}

    def copied(root, *, hospitals):
        shutil.copytree(made[hospitals].root, root, dirs_exist_ok=True)
        return Federation(root)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkcs8, "_N", 1 << 8)  # a fifth of a second for each password is for others' guesses
        for each in (THREE, FOUR):
            made[each] = founded(tmp_path_factory.mktemp("founded"), hospitals=each)
        patch.setattr(running, "LOOK_SECONDS", 0.005)
        patch.setattr(running, "DISK_SECONDS", 0.005)
        patch.setattr(running, "CHECK_SECONDS", 0.01)
        patch.setattr(running, "founded", copied)
        patch.setattr(findings, "_RESAMPLES", 20)  # intervals are tested elsewhere
        yield made
