"""What every `Parallel` must do, and that two processes train what one would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from halovid.store.errors import TrainingError
from halovid.training.batches import batch_indices
from halovid.training.loop import train
from halovid.training.parallel import OneProcess, Parallel
from tiny_training import TinyPairs, make_alignment

PROCESSES = 2


class Replicas:
    """A `Parallel` of processes that each hold the whole network and tell each other by gloo."""

    def __init__(self, rank: int, size: int, meeting_point: Path) -> None:
        dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=size)
        self.rank, self.size = rank, size

    def slice(self, count: int) -> range:
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def wrap(self, module: nn.Module) -> None:
        for parameter in module.parameters():  # all begin with the weights of the first
            dist.broadcast(parameter.data, src=0)

    def mean(self, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def all_true(self, value: bool) -> bool:
        votes = torch.tensor(int(value))
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
        return bool(votes)

    def gather(self, rows: Tensor) -> Tensor:
        shares: list[Tensor] = [torch.empty(0)] * self.size
        dist.all_gather_object(shares, rows)
        return torch.cat(shares)


def check_conformance(parallel: Parallel) -> None:
    """To be called in all processes at once; takes any implementation."""
    assert 0 <= parallel.rank < parallel.size
    for count in (parallel.size, 7, 8):
        rows = parallel.slice(count)
        assert rows.step == 1 and abs(len(rows) - count / parallel.size) < 1
        assert parallel.gather(torch.tensor(list(rows))).tolist() == list(range(count))
    mean = parallel.mean(torch.tensor([1.0, parallel.rank]))
    assert mean.tolist() == [1, (parallel.size - 1) / 2]
    assert parallel.all_true(True)
    assert not parallel.all_true(parallel.rank != 0)
    assert not parallel.all_true(parallel.rank != parallel.size - 1)
    network = nn.Linear(2, 3)
    names = list(dict(network.named_parameters()))
    parallel.wrap(network)
    assert list(dict(network.named_parameters())) == names
    assert network(torch.ones(1, 2)).shape == (1, 3)


def run_apart(rank: int, folder: Path, task: str) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    parallel = Replicas(rank, PROCESSES, folder / f"meeting-point-{task}")
    pairs = TinyPairs(tied=[3], broken=broken_indices() if task == "break" else ())
    if task == "conform":
        check_conformance(parallel)
    elif task == "train":
        alignment = make_alignment(folder / f"process {rank}", pairs, parallel, micro_batches=2, batch_size=5)
        train(alignment)
        torch.save(alignment.policy.state_dict()["ema"], folder / f"ema {rank}")
    else:
        with pytest.raises(TrainingError, match="not finite at step 0"):
            train(make_alignment(folder / f"process {rank}", pairs, parallel))
    dist.destroy_process_group()


def broken_indices() -> list[int]:
    """A clip that only the last process reads."""
    return batch_indices(10, 4, 0, 5)[3:]


def spawn(folder: Path, task: str) -> None:
    mp.spawn(run_apart, args=(folder, task), nprocs=PROCESSES)


def test_one_process_conforms() -> None:
    check_conformance(OneProcess())


def test_two_processes_conform(tmp_path: Path) -> None:
    spawn(tmp_path, "conform")


def test_two_processes_train_what_one_would(tmp_path: Path) -> None:
    """With batches of an odd number of pairs, of which some tie."""
    alone = make_alignment(tmp_path / "alone", TinyPairs(tied=[3]), micro_batches=2, batch_size=5)
    train(alone)
    spawn(tmp_path, "train")
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("alone", "process 0")
    ]
    assert len(logs[0]) == len(logs[1]) == 6
    for one, other in zip(*logs, strict=True):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-6)
    for rank in range(PROCESSES):
        ema = torch.load(tmp_path / f"ema {rank}", weights_only=True)
        for name, value in alone.policy.ema.items():
            torch.testing.assert_close(ema[name], value, rtol=0, atol=1e-5)
    assert not (tmp_path / "process 1" / "log.jsonl").exists(), "the first process writes"


def test_all_processes_stop_when_the_loss_of_one_is_not_finite(tmp_path: Path) -> None:
    spawn(tmp_path, "break")
    assert (tmp_path / "process 0" / "bad_batch_0.safetensors").exists()
