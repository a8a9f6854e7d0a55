"""Recipes: the named ones, errors in recipes, runs and their files, and a user's functions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import KilledError
from tiny_recipe import TINY, tiny

from nested_sparse.errors import TrainingError
from nested_sparse.runtime import Session
from nested_sparse.trainer.data.datasets import Digits
from nested_sparse.trainer.progress import EpochReport
from nested_sparse.trainer.recipes.recipe import load_recipe, named_recipes
from nested_sparse.trainer.recipes.run import dense_flops, run_recipe
from nested_sparse.trainer.tensorboard import TensorBoard
from nested_sparse.trainer.zoo import ResNet20


def test_named_recipes_hold() -> None:
    """Each recipe has a description and is correct, except for the path of its data."""
    names = named_recipes()
    assert {"digits", "fashion-mnist", "spoken-digits"} <= set(names)
    assert all(names.values())
    for name, key in {"fashion-mnist": "data.directory", "spoken-digits": "data.file"}.items():
        with pytest.raises(TrainingError, match=rf"is missing: expected a path; .* --set {key}=PATH$"):
            load_recipe(name)
        load_recipe(name, [f"{key}=x"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lrr=0.1", r"\[train\]: there is no 'lrr'; did you mean 'lr'\? expected one of: .*weight_decay.*seed"),
        ("train.lr=fast", r'\[train\] lr = "fast": expected a number'),
        ("train.lr=-1", r"\[train\] lr: expected above 0, got -1"),
        ("train.dense_epochs=1.5", r"\[train\] dense_epochs = 1.5: expected a whole number"),
        ("train.optimizer=sdg", r"\[train\] optimizer: expected one of 'sgd', 'adamw', got 'sdg'"),
        ("train.device=tpu", r"\[train\] device = \"tpu\": expected one of: auto, cpu, cuda"),
        ("train.loss=crossentropy", r"\[train\] loss: there is no 'crossentropy'; did you mean 'cross_entropy'"),
        ("train.seed=-1", r"\[train\] seed = -1: expected a whole number from 0 to"),
        ("data.name=digit", r"\[data\] name: there is no 'digit'; did you mean 'digits'\? expected one of: .*fsdd"),
        ("data.flip=1", r"\[data\] flip = 1: expected true or false"),
        ("data.evaluate_on=train", r"\[data\] evaluate_on: expected one of"),
        ("data.name=nowhere:data", r"\[data\] name = 'nowhere:data': cannot be imported"),
        ("model.name=resnet18", r"\[model\] name: there is no 'resnet18'; did you mean 'resnet"),
        ("model.widht=4", r"\[model\]: there is no 'widht'; did you mean 'width'"),
        ("model.name=os:system", r"\[model\] command is missing: expected a value; .* --set model\.command=VALUE"),
        ("model.weights=3", r"\[model\] weights = 3: expected the path of a state dict"),
        ("nest.densities=0.1", r"\[nest\] densities = 0.1: expected a list, each a number"),
        ('nest.densities=[0.1, "a"]', r"\[nest\] densities = \[0.1, \"a\"\]: expected a list, each a number"),
        ("nest.model=x", r"\[nest\]: there is no 'model'"),
        ("schedule.name=gradua", r"\[schedule\] name: there is no 'gradua'; did you mean 'gradual'"),
        ("schedule.end=2", r"\[schedule\] end: expected in \[0, 1\], got 2"),
        ("nesting.epochs_per_level=[1, 2.5]", r"\[nesting\] epochs_per_level = .* expected a whole number or a list"),
        (
            "nesting.epochs_per_level=[1]",
            r"\[nesting\] epochs_per_level: expected one per level, 2 of them, got \(1,\)",
        ),
        ("nesting.name=joint nesting.search_level=2", r"\[nesting\] search_level: expected -1 to 1, .* got 2"),
        (
            "nesting.name=joint_then_grow nesting.epochs_per_level=[1, 2, 3]",
            r"\[nesting\] epochs_per_level: expected one per level, 2 of them",
        ),
        ("output.values=int4", r"\[output\] values = \"int4\": expected one of: float32, float16, int8"),
        ("train.int8_epochs=2", r"\[train\] int8_epochs = 2: expected 0, or \[output\] values = \"int8\""),
        ("output.file=a/b", r"\[output\] file = \"a/b\": expected the name of a file"),
        ('output.metrics=["f1"]', r"\[output\] metrics: there is no 'f1'"),
        ("trian.lr=1", r"tables: there is no 'trian'; did you mean 'train'"),
        ("lr", r"--set lr: expected table.key=value"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, setting: str, message: str) -> None:
    """The error has file, table, key, value and the allowed values; for one mistake it is one line."""
    with pytest.raises(TrainingError, match=message) as caught:
        tiny(tmp_path, *re.split(r" (?=\w+\.\w+=)", setting))
    assert str(caught.value).startswith(str(tmp_path / "tiny.toml"))
    assert "\n" not in str(caught.value)


def test_an_empty_table_of_a_teacher_is_a_mistake(tmp_path: Path) -> None:
    """It would train without one."""
    with pytest.raises(TrainingError, match=r"\[teacher\] is empty; give checkpoint or weights"):
        tiny(tmp_path, text=f"{TINY}[teacher]\n")


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    """There is one line for each mistake in any table."""
    with pytest.raises(TrainingError) as caught:
        tiny(tmp_path, "train.lrr=1", "model.widht=2", "nest.densities=3", "schedule.name=none")
    assert len(str(caught.value).splitlines()) == 5


def test_files_that_are_no_recipes_are_errors(tmp_path: Path) -> None:
    """The file is missing (the error lists the names), or not TOML."""
    with pytest.raises(TrainingError, match=r"no such file.*did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(TrainingError, match="is not TOML"):
        tiny(tmp_path, text="[data\n")
    with pytest.raises(TrainingError, match="expected a table"):
        tiny(tmp_path, text="data = 3\n")


LONG = 1_000_000 * "x"


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG} = 1\n",
        f"[{LONG}]\n",
        f"train = '{LONG}'\n",
        f"[train]\n{LONG} = 1\n",
        f"[train]\nlr = '{LONG}'\n",
        f"[train]\noptimizer = '{LONG}'\n",
        f"[data]\nname = '{LONG}'\n",
        f"[data]\nname = '{LONG}:{LONG}'\n",
        f"[output]\nfile = '{LONG}/x'\n",
        "[data]\n'\\u001b[2J' = 1\n".replace("'", '"'),
        f"'\x7f{LONG}' = ",
        "[train]\n" + "".join(f"k{index} = 1\n" for index in range(2000)),
    ],
    ids=range(12),
)
def test_a_message_repeats_little_of_a_recipe(tmp_path: Path, text: str) -> None:
    """The message is short, lists few mistakes, and has no control characters."""
    with pytest.raises(TrainingError, match=r"tiny\.toml: ?") as caught:
        tiny(tmp_path, text=text)
    assert len(str(caught.value)) < 10_000
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The tiny recipe trained twice from one seed: the folder, and both runs' figures."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = tiny(folder)
    return folder, run_recipe(recipe, folder / "a"), run_recipe(recipe, folder / "b")


def test_the_same_seed_gives_the_same_file(finished: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    """The files are equal bit for bit."""
    folder, first, second = finished
    content = (folder / "a" / "tiny.safetensors").read_bytes()
    assert content == (folder / "b" / "tiny.safetensors").read_bytes()
    assert first["levels"] == second["levels"]


def test_a_run_leaves_checkpoint_figures_and_picture(finished: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    """The levels have the accuracy of the figures on held-out data; the state file is deleted."""
    folder, figures, _ = finished
    out = folder / "a"
    assert sorted(path.name for path in out.iterdir()) == ["tiny.json", "tiny.png", "tiny.safetensors"]
    assert (out / "tiny.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "tiny.json").read_text())["figures"] == figures
    inputs, labels = next(iter(tiny(folder).load_data(0).scored()))
    assert len(labels) == figures["data"]["evaluated_samples"] == 40
    with Session(out / "tiny.safetensors", threads=1) as session:
        assert [level.density for level in session.levels] == pytest.approx([0.2, 0.6], abs=0.02)
        answers = [
            next(iter(session.run({"input": inputs.numpy()}, level=level.index).values())).argmax(axis=1)
            for level in session.levels
        ]
        for level, said, answer in zip(session.levels, figures["levels"], answers, strict=True):
            right = float((answer == labels.numpy()).mean())
            assert right == pytest.approx(said["accuracy"], abs=1 / 40 + 1e-9)
            differing = float((answer != answers[-1]).mean())
            assert level.metrics["disagreement"] == said["disagreement"] == pytest.approx(differing, abs=2 / 40 + 1e-9)
            assert said["flops"] == level.flops < figures["dense"]["flops"]
    assert figures["epochs"] == figures["passes"] == 4


def test_a_finished_run_is_only_reported(finished: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    """No epoch is trained; another recipe or seed is refused by name; a foreign file is kept."""
    folder, figures, _ = finished
    epochs: list[object] = []
    assert run_recipe(tiny(folder), folder / "a", on_progress=[epochs.append]) == figures
    assert not epochs
    with pytest.raises(TrainingError, match=r"another recipe: train\.seed is 1 here, None there"):
        run_recipe(tiny(folder, "train.seed=1"), folder / "a")
    (folder / "c").mkdir()
    (folder / "c" / "tiny.safetensors").write_bytes(b"mine")
    with pytest.raises(TrainingError, match="--fresh replaces it"):
        run_recipe(tiny(folder), folder / "c")
    assert (folder / "c" / "tiny.safetensors").read_bytes() == b"mine"


def test_a_foreign_state_is_said_with_the_options_that_help(tmp_path: Path) -> None:
    """The error names options of the command line: --fresh replaces a file, but not a folder."""
    state = tmp_path / "tiny.state"
    state.write_text("mine")
    with pytest.raises(
        TrainingError, match=r"tiny\.state: is not a .*; --fresh replaces it, --out names another folder"
    ):
        run_recipe(tiny(tmp_path), tmp_path)
    assert state.read_text() == "mine"
    state.unlink()
    state.mkdir()
    for fresh in (False, True):
        with pytest.raises(TrainingError, match=r"tiny\.state[^-]*[;] (name another folder with )?--out"):
            run_recipe(tiny(tmp_path), tmp_path, fresh=fresh)


def test_splits_are_apart_and_the_seed_s_own(tmp_path: Path) -> None:
    """Held-out samples are not training samples, and are the same for every seed of the batches."""
    source = Digits(size=8, validation_samples=200)
    one, two = source.load(0), source.load(1)
    held = torch.cat([inputs for inputs, _ in one.scored()])
    assert torch.equal(held, torch.cat([inputs for inputs, _ in two.scored()]))
    trained = torch.cat([inputs for inputs, _ in one.batches(0)])
    rows = {row.numpy().tobytes() for row in trained}
    assert len(held) == 200
    assert sum(row.numpy().tobytes() in rows for row in held) == 0
    assert not torch.equal(next(iter(one.batches(0)))[0], next(iter(two.batches(0)))[0])


def test_own_functions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, model and loss of a module in the current directory; weights from a file; wrong ones are errors."""
    (tmp_path / "recipe_mine.py").write_text(
        "import torch\n"
        "from nested_sparse.trainer.data.datasets import Digits\n"
        "from nested_sparse.trainer.zoo import DigitNet\n"
        "def data(pixels: int):\n    return Digits(size=pixels, train_samples=64, validation_samples=20).load(0)\n"
        "def net(classes, channels, width: int = 4):\n"
        "    assert (classes, channels) == (10, 1)\n"
        "    return DigitNet(width=width)\n"
        "def loss(y, t):\n    return torch.nn.functional.cross_entropy(y, t, label_smoothing=0.1)\n"
        "def nothing():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ["model.name=recipe_mine:net", "train.loss=recipe_mine:loss", "model.weights=w.pt"]
    rest = TINY[TINY.index("[model]") :]
    text = '[data]\nname = "recipe_mine:data"\npixels = 8\n' + rest
    with pytest.raises(TrainingError, match=r"\[model\] weights = 'w.pt': no such file"):
        tiny(tmp_path, *own, text=text)
    Path("w.pt").write_bytes(b"0")
    recipe = tiny(tmp_path, *own, text=text)
    with pytest.raises(TrainingError, match=r"\[model\] weights w.pt"):
        run_recipe(recipe, tmp_path / "out")
    torch.save(recipe.model(10, 1, width=4).state_dict(), "w.pt")
    assert len(run_recipe(recipe, tmp_path / "out")["levels"]) == 2
    with pytest.raises(TrainingError, match="returned int: expected a"):
        tiny(tmp_path, "data.name=recipe_mine:nothing", text=rest).load_data(0)


OWN = """
import dataclasses
import numpy as np
import torch
from nested_sparse.trainer.data.datasets import Digits
from nested_sparse.trainer.zoo import DigitNet
class OwnError(Exception): pass
def raise_own(*_): raise OwnError("mine")
def boom(*_): raise KeyError("boom")
def three(*_): return 3
def wide(width=4): return DigitNet(width=4 * width)
def undefined(width: "Nowhere" = 4): return DigitNet(width=4)
class Fails(DigitNet):
    def forward(self, x):
        if self.training: raise_own()
        return super().forward(x)
def good(): return Digits(size=8, train_samples=64, validation_samples=20).load(0)
def missing(): return np.load("nowhere.npz")
def late(): return dataclasses.replace(good(), batches=raise_own)
def half(epoch):
    yield next(iter(good().batches(0)))
    boom()
def later(): return dataclasses.replace(good(), batches=half)
def unscored(): return dataclasses.replace(good(), scored=boom)
def odd(**fields): return dataclasses.replace(good(), **fields)
def listed(): return odd(example=[torch.zeros(1)])
def factual(): return odd(facts={"mean": np.float32(1)})
def bare(**_): return odd(facts={})
def needs(classes, width=4): return DigitNet(width=width)
"""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.name=own:boom", r"\[model\] own:boom raised KeyError: 'boom'"),
        ("model.name=own:three", r"\[model\] own:three returned int: expected a torch\.nn\.Module"),
        ("model.name=own:wide model.width=a", r"\[model\] own:wide raised \w+: "),
        ("model.name=own:needs data.name=own:bare", r"\[model\] classes is missing, and the data does not tell it"),
        ("model.name=own:Fails", r"\[model\] own:Fails: training failed.*: OwnError: mine"),
        ("data.name=own:boom", r"\[data\] own:boom raised KeyError: 'boom'"),
        ("data.name=own:three", r"\[data\] own:three returned int: expected a nested_sparse\.trainer\.TrainingData$"),
        ("data.name=own:missing", r"\[data\] own:missing raised FileNotFoundError: .*No such file.*nowhere\.npz"),
        ("data.name=own:late", r"\[data\] own:late: its batches raised OwnError: mine"),
        ("data.name=own:later", r"\[data\] own:later: its batches raised KeyError: 'boom'"),
        ("data.name=own:unscored", r"\[data\] own:unscored: its scored raised KeyError: 'boom'"),
        ("data.name=own:listed", r"\[data\] own:listed returned .* whose example is .*: expected a tuple of tensors"),
        ("data.name=own:factual", r"\[data\] own:factual returned .* whose facts .*: expected a dict .* JSON"),
        ("train.loss=own:boom", r"\[train\] own:boom raised KeyError: 'boom'"),
        ("train.loss=own:raise_own", r"\[train\] own:raise_own raised OwnError: mine"),
        ("train.loss=own:three", r"\[train\] own:three returned int: expected a tensor of one number"),
        ("train.loss=own_broken:loss", r"\[train\] loss = 'own_broken:loss': cannot be imported \(ZeroDivisionError"),
    ],
)
def test_own_functions_at_fault_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    """The error is one line with the table; the function's exception is the cause."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TrainingError, match=said) as caught:
        run_recipe(tiny(tmp_path, *setting.split()), tmp_path / "out")
    assert str(caught.value).startswith(str(tmp_path / "tiny.toml"))
    assert "\n" not in str(caught.value)
    if " raised " in said:
        cause: BaseException | None = caught.value
        while isinstance(cause, TrainingError):
            cause = cause.__cause__
        assert cause is not None


def test_own_data_needs_only_what_the_package_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function makes a TrainingData of its own; the class is offered by the trainer and by its room of data."""
    (tmp_path / "own_data.py").write_text(
        "import torch\n"
        "from nested_sparse.trainer import TrainingData\n"
        "from nested_sparse.trainer.data import TrainingData as Same\n"
        "assert TrainingData is Same\n"
        "x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 10\n"
        "def data():\n"
        "    facts = {'classes': 10, 'channels': 1}\n"
        "    return TrainingData(lambda epoch: [(x, y)], lambda: [(x, y)], (x[:1],), facts)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = tiny(tmp_path, "data.name=own_data:data")
    assert len(run_recipe(recipe, tmp_path / "out")["levels"]) == 2


def test_a_run_that_fails_before_its_first_epoch_leaves_the_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The corrected recipe may use the folder; after an epoch it belongs to its recipe, and a resumed run says so."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match="own:boom"):
        run_recipe(tiny(tmp_path, "train.loss=own:boom"), out)
    assert not list(out.iterdir())

    def stop(report: EpochReport) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        run_recipe(tiny(tmp_path), out, on_progress=[stop])
    assert sorted(path.name for path in out.iterdir()) == ["tiny.json", "tiny.state"]
    with pytest.raises(TrainingError, match=r"belongs to a run of another recipe: train\.seed"):
        run_recipe(tiny(tmp_path, "train.seed=1"), out)
    with caplog.at_level("INFO", logger="nested_sparse.trainer"):
        assert run_recipe(tiny(tmp_path), out)["epochs"] == 4
    assert f"resuming from {out / 'tiny.state'}: 1 of 4 epochs are done" in caplog.messages


def test_an_own_function_may_name_types_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are then used without a check."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tiny(tmp_path, "model.name=own:undefined", "model.width=5").model_options == {"width": 5}


def test_resnet20_has_the_size_it_says() -> None:
    """It has 0.27 million weights; 62 MFLOP on 28 × 28, 16 to 17 with stride 2, counted by the net itself."""
    from nested_sparse.trainer import nest

    assert sum(parameter.numel() for parameter in ResNet20().parameters()) == pytest.approx(0.27e6, rel=0.03)
    for stride, flops in ((1, 62e6), (2, 16.5e6)):
        net = nest(ResNet20(stem_stride=stride), densities=(1.0,))
        assert dense_flops(net, (torch.zeros(1, 1, 28, 28),)) == pytest.approx(flops, rel=0.05)


def test_tensorboard_says_what_it_needs() -> None:
    """Without the package the error has its name and the command to install it."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(TrainingError, match=r"nested-sparse\[tensorboard\]"):
            TensorBoard("curves")
    else:
        pytest.skip("tensorboard is installed here")


def test_keys_of_a_nesting_without_a_name_say_the_name(tmp_path: Path) -> None:
    """Recipes from when `freeze_then_grow` was the default have its keys alone."""
    text = TINY.replace('name = "freeze_then_grow"\n', "")
    with pytest.raises(TrainingError, match=r'has no name, and so is interleaved; .* name = "freeze_then_grow"'):
        tiny(tmp_path, text=text)
