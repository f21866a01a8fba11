"""Two processes train like one: gathered negatives, averaged gradients, one checkpoint; differences are told.

As a script, under torchrun, it is what the two processes do; they leave what they found in a folder.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from brainedit import distributed
from brainedit.losses import infonce
from brainedit.training import fit

N_TRIALS = 22  # in batches of 7: 7, 7, 7 and 1, of which the first process has no share
X, V = (
    torch.randn(N_TRIALS, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (6, 5)
)
W = torch.arange(30, dtype=torch.float64).reshape(2, 5, 3).square()  # what each process asks of five rows


class Killed(Exception):
    pass


class Toy(nn.Module):
    """Two towers, a learned scale, and a weight that no loss reaches."""

    def __init__(self, *, norm=False, dropout=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.eeg = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 4)
        )
        self.image = nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.unused = nn.Linear(2, 2)
        self.double()

    def loss(self, rows):
        own = rows[distributed.shard(len(rows))]
        phi, theta = nn.functional.normalize(self.eeg(X[own]), dim=1), self.image(V[own])
        f = distributed.gather(phi) @ distributed.gather(theta).T * self.scale.exp()
        return infonce(f, rows[:, None] == rows[None])


def batches(generator, n=N_TRIALS):
    for rows in torch.randperm(n, generator=generator).split(7):
        yield (rows,)


def train(model, batches=batches, **settings):
    settings = {"n_epochs": 5, "learning_rate": 0.02, "weight_decay": 0.3, "progress": False} | settings
    return fit(model, model.loss, batches, **settings)


def whole_batches(generator):  # of 7, for batch norm cannot take one
    return batches(generator, 21)


# what the two processes do


def gather_shares(rank, folder):
    x = torch.arange(15, dtype=torch.float64).reshape(5, 3)
    share = x[distributed.shard(5)].requires_grad_()
    whole = distributed.gather(share)
    (whole * W[rank]).sum().backward()
    one = torch.full((rank, 2), 7)  # nothing on process 0
    return {
        "whole": whole.detach(),
        "gradient": share.grad,
        "turned": distributed.gather(x.T[:, distributed.shard(5)].T),
        "one": distributed.gather(one),
    }


def average_values(rank, folder):
    a, b, c = (
        nn.Parameter(torch.ones(2, dtype=kind)) for kind in (torch.float32, torch.float32, torch.float64)
    )
    a.grad = torch.tensor([1.0, 2.0]) * (1 + rank)
    c.grad = torch.tensor([4.0, 8.0], dtype=torch.float64) if rank else None
    distributed.average_gradients([a, b, c])
    return {"a": a.grad, "c": c.grad, "b": torch.tensor(b.grad is None)}


def train_plain(rank, folder):
    model = Toy(seed=rank)  # only the main process's start counts
    shown = {"progress": True, "description": f"bar of {rank}"}
    history = train(model, clip=0.5, decay_vectors=False, **shown)
    return {"history": torch.tensor(history, dtype=torch.float64), **model.state_dict()}


def train_norm(rank, folder):
    model = Toy(norm=True)
    names = list(model.state_dict())
    model = distributed.synchronised(model)
    assert list(model.state_dict()) == names
    history = train(model, whole_batches)
    return {"history": torch.tensor(history, dtype=torch.float64), **model.state_dict()}


def resume(rank, folder):
    """Killed in the third epoch; only the main process has the file."""
    path, calls = folder / f"of_{rank}.safetensors", []

    def killed(generator):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return batches(generator)

    unbroken = Toy(dropout=0.5)
    history = train(unbroken)
    try:
        train(Toy(dropout=0.5), killed, checkpoint=path)
    except Killed:
        resumed = Toy(dropout=0.5, seed=9)
        assert train(resumed, checkpoint=path) == history
    same = all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True))
    return {"same": torch.tensor(same), "written": torch.tensor(path.exists())}


def choose(rank, folder):
    """Process 0 would choose the first epoch, process 1 the last; their mean the third."""
    values = iter([[0.0, 5.0, 1.0, 9.0, 9.0], [9.0, 9.0, 2.0, 5.0, 0.0]][rank])
    history = train(Toy(), validate=lambda: next(values), keep="best")
    return {"validation": torch.tensor(history.validation), "best": torch.tensor(history.best)}


def masks(rank, folder):
    model, seen = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)), []

    def loss(x):
        seen.append(model[1](torch.ones(64)))
        return model(x).sum()

    fit(model, loss, lambda _: [(torch.ones(3, 1),)], n_epochs=1, progress=False)
    return {"mask": seen[0]}


def told(rank, folder):
    """What is raised when the processes differ."""

    def restless(generator):
        torch.rand(rank + 1, generator=generator)
        return [(torch.arange(5),)]

    def broken(rows):
        return model.loss(rows) * (float("nan") if rank else 1.0)

    model, messages = Toy(), {}
    for name, run in {
        "identity": lambda: train(model, identity=f"data of {rank}"),
        "network": lambda: train(Toy(norm=bool(rank))),
        "order": lambda: train(model, restless),
        "nan": lambda: fit(model, broken, batches, n_epochs=1, progress=False),
    }.items():
        try:
            run()
        except ValueError as error:
            messages[name] = str(error)
    return messages


TASKS = [gather_shares, average_values, train_plain, train_norm, resume, choose, masks, told]


def die(rank):
    """Process 1 ends without a word while process 0 waits for its gradients."""

    def loss(rows):
        if rank == 1:
            os._exit(3)
        return model.loss(rows)

    model = Toy()
    fit(model, loss, batches, n_epochs=2, progress=False)


def main(folder):
    torch.set_num_threads(1)
    rank = distributed.world().rank
    found = {task.__name__: task(rank, folder) for task in TASKS}
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()
    die(rank)


# what the tests look at


def launch(folder):
    where = [
        "--nproc-per-node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
    ]
    settings = {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *where, __file__, str(folder)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return launch(folder), folder


@pytest.fixture(scope="module")
def found(launched):
    done, folder = launched
    files = [folder / f"{rank}.pt" for rank in (0, 1)]
    assert all(file.exists() for file in files), done.stderr[-4000:]
    return [torch.load(file, weights_only=True) for file in files]


def test_gathered_shares_are_the_whole_in_order(found):
    x = torch.arange(15, dtype=torch.float64).reshape(5, 3)
    for process in found:
        assert torch.equal(process["gather_shares"]["whole"], x)
        assert torch.equal(process["gather_shares"]["turned"], x)
        assert torch.equal(process["gather_shares"]["one"], torch.tensor([[7, 7]]))


def test_the_gradient_of_a_share_is_the_sum_of_what_all_ask(found):
    wanted = W.sum(0)
    assert torch.equal(found[0]["gather_shares"]["gradient"], wanted[:2])
    assert torch.equal(found[1]["gather_shares"]["gradient"], wanted[2:])


def test_averaged_gradients(found):
    for process in found:
        assert process["average_values"]["a"].tolist() == [1.5, 3.0]
        assert process["average_values"]["c"].tolist() == [2.0, 4.0]  # none on one process counts as zero
        assert process["average_values"]["b"]  # none on both stays none


def assert_like_one(found, task, model, history):
    for process in found:
        result = process[task]
        assert result["history"].tolist() == pytest.approx(list(history), rel=1e-9)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(result[name], value, rtol=1e-7, atol=1e-9, msg=name)


def test_two_processes_train_like_one_with_the_same_global_batch(found):
    model = Toy()
    start = model.unused.weight.clone()
    history = train(model, clip=0.5, decay_vectors=False)
    assert_like_one(found, "train_plain", model, history)
    assert torch.equal(model.unused.weight, start)
    assert history[-1] < history[0]


def test_one_process_shows_the_progress(launched, found):
    assert "bar of 0: 100%" in launched[0].stderr
    assert "bar of 1" not in launched[0].stderr


def test_synchronised_batch_norm_trains_like_one_process(found):
    model = Toy(norm=True)
    history = train(model, whole_batches)
    assert_like_one(found, "train_norm", model, history)


def test_a_killed_run_of_two_ends_with_the_same_weights_and_one_file(found):
    assert [process["resume"]["same"].item() for process in found] == [True, True]
    assert [process["resume"]["written"].item() for process in found] == [True, False]


def test_the_processes_choose_one_epoch_together(found):
    for process in found:
        assert process["choose"]["validation"].tolist() == [4.5, 7.0, 1.5, 7.0, 4.5]
        assert process["choose"]["best"] == 2


def test_each_process_draws_its_own_dropout(found):
    first, second = (process["masks"]["mask"] for process in found)
    assert 0.2 < (first != second).float().mean() < 0.8


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("identity", "need the same settings and network; process 1 of 2 has another than process 0"),
        ("network", "need the same settings and network; process 1 of 2 has another"),
        ("order", "need the same order of the batches; process 1 of 2 has another"),
        ("nan", "The loss became nan"),
    ],
)
def test_processes_that_differ_are_told_on_both(found, case, message):
    for process in found:
        assert message in process["told"][case]


def test_a_process_that_dies_ends_the_others(launched, found):
    assert launched[0].returncode != 0
    assert "exitcode  : 3" in launched[0].stderr


def test_one_process_needs_no_set_up(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    x = torch.ones(3, requires_grad=True)
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    distributed.average_gradients([parameter])
    distributed.barrier()
    distributed.broadcast([x])
    distributed.check_same("settings", b"any")
    assert distributed.world() == distributed.World(rank=0, size=1, device=None)
    assert distributed.is_main()
    assert distributed.gather(x) is x
    assert distributed.broadcast_bytes(b"a") == b"a"
    assert parameter.grad.tolist() == [1.0, 2.0]
    assert list(range(7))[distributed.shard(7)] == list(range(7))
    norm = nn.BatchNorm1d(2)
    assert distributed.synchronised(norm) is norm


@pytest.mark.parametrize("n", [0, 1, 2, 5, 7, 256])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_everything_once_and_differ_by_one(monkeypatch, n, size):
    shares = []
    for rank in range(size):
        monkeypatch.setattr(distributed, "world", lambda rank=rank: distributed.World(rank, size))
        shares.append(list(range(n))[distributed.shard(n)])
    assert list(itertools.chain(*shares)) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_several_processes_without_their_number_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"WORLD_SIZE=4 asks .* RANK is not set; start them with torchrun"):
        distributed.world()


def test_single_process_use_never_imports_accelerate():
    code = "import sys, brainedit.training as t; t.distributed.world(); sys.exit('accelerate' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
