"""The works of the stages: plain settings that can be sent to another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from halovid.commands.exchange import ImportClips
from halovid.config.recipes import make_config
from halovid.measuring.evaluation import MeasureClips
from halovid.stages.good import EncodeGoodClips
from halovid.stages.judge import JudgeClips
from halovid.stages.repair import RepairClips
from halovid.stages.restore import RestoreClips
from halovid.stages.sampling import SampleClips
from halovid.stages.score import ScoreClips
from halovid.store.work import Work

CONFIG = make_config({"good": {}, "repair": {}, "restore": {}})
RUN, FOLDER = Path("run"), Path("run/stage")
WORKS = [
    SampleClips(CONFIG, FOLDER, 1, weights=RUN / "align" / "weights"),
    JudgeClips(CONFIG, RUN, {"clip": [[0, 3]]}),
    EncodeGoodClips(CONFIG, FOLDER),
    RepairClips(CONFIG, RUN, FOLDER),
    RestoreClips(CONFIG, RUN, FOLDER),
    ScoreClips(CONFIG, RUN),
    MeasureClips(CONFIG, RUN, FOLDER, "base"),
    ImportClips(FOLDER, {"a": "b"}, {"prompt": "p00000"}),
]


@pytest.mark.parametrize("work", WORKS, ids=lambda work: type(work).__name__)
def test_a_work_comes_out_of_a_pickle_as_it_went_in(work: Work) -> None:
    assert pickle.loads(pickle.dumps(work)) == work
