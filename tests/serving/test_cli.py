"""Command line: the output, the exit codes, and the errors in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from int8_file import write_int8

from chain import linear_chain
from hostile_graphs import before_output, external, floats, write_hostile
from nested_sparse.amend import store_rows
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.layouts import Blocks
from nested_sparse.mask import block_scores, nested_first_level
from nested_sparse.network import DenseModule, Network
from nested_sparse.reroute import Reroute
from nested_sparse.runtime.policy import POLICIES
from nested_sparse.serving import cli
from nested_sparse.serving.commands import inspect
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.value_type import INT8
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord, LevelRecord, header_bytes, write_checkpoint, write_file
from support import layer_record, random_weight, write_layers

ROWS, COLUMNS = 8, 12
KEEP = (5, 12)  # of 24 blocks of 4 rows


@pytest.fixture
def checkpoint(tmp_path):
    """A file of two levels."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    weight = NestedWeight("fc", values, nested_first_level(block_scores(values, 4), KEEP), Blocks(4))
    record = LayerRecord(weight, rng.standard_normal((2, 2, ROWS)).astype(np.float32), "linear", {})
    path = tmp_path / "net.safetensors"
    write_checkpoint(
        path,
        graph_builder=linear_chain([record], 2, ends=("x", "y")),
        layers=[record],
        levels=[LevelRecord(0.2, 40, {"accuracy": 0.5}), LevelRecord(0.5, 96, {})],
        inputs=[TensorSpec("x", "float32", (None, COLUMNS), (1, COLUMNS))],
        outputs=[TensorSpec("y", "float32", (None, ROWS), (1, ROWS))],
        reroutes=[Reroute(1, 0, {"fc": 0.25})],
    )
    return path


def run(*arguments):
    """Exit code, stdout and stderr of the command line in this process."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def run_main(monkeypatch, capsys, *arguments):
    """The console script itself, with its handling of errors."""
    monkeypatch.setattr(sys, "argv", ["nested-sparse", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_inspect_prints_all_metadata_as_one_json_object(checkpoint):
    """Everything the file says of itself, as one object."""
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert [level["nnz"] for level in facts["levels"]] == [4 * kept for kept in KEEP]
    assert [level["density"] for level in facts["levels"]] == [0.2, 0.5]
    assert facts["levels"][0]["metrics"] == {"accuracy": 0.5}
    (layer,) = facts["layers"]
    assert (layer["name"], layer["op"], layer["pattern"], layer["rows"], layer["columns"]) == (
        "fc",
        "linear",
        "block4x1",
        8,
        12,
    )
    assert layer["blocks"] == [KEEP[0], KEEP[1] - KEEP[0]]
    assert facts["nbytes"] == checkpoint.stat().st_size
    assert facts["inputs"][0]["shape"] == [None, COLUMNS]
    assert facts["reroutes"] == [{"start": 1, "end": 0, "accuracy": {"fc": 0.25}}]


def test_inspect_prints_the_same_as_tables(checkpoint):
    """The tables have the same facts as the JSON object."""
    result = run("inspect", checkpoint)
    assert result.exit_code == 0
    for text in ("verified: nesting, indices, digests, graph", "accuracy 0.5", "block4x1", "8 × 12", "fc"):
        assert text in result.stdout
    lowered = result.stdout[result.stdout.index("layers at which a running inference may be lowered") :].splitlines()[3]
    assert re.split(" {2,}", lowered.strip()) == ["1", "0", "1 of 1", "0.25", "0.25", "fc"]


@pytest.mark.parametrize(
    ("rows", "words"), [("independent", "may run together"), ("dependent", "runs alone"), (None, "not checked")]
)
def test_inspect_says_whether_rows_are_independent(checkpoint, rows, words):
    """Whether requests of several clients may run as one batch, for people and for programs."""
    store_rows(checkpoint, rows)
    assert json.loads(run("inspect", checkpoint, "--json").stdout)["rows"] == rows
    assert [line for line in run("inspect", checkpoint).stdout.splitlines() if words in line]


def test_inspect_shows_what_int8_costs(tmp_path):
    """Types and errors of the layers, those that kept float32, and the conversions; nothing of it in a float file."""
    path = write_int8(tmp_path / "int8.safetensors")
    facts = json.loads(run("inspect", path, "--json").stdout)
    assert [(layer["value_bytes"], layer["sqnr_db"]) for layer in facts["layers"]] == [(1, [30.25, 33.0]), (1, [])]
    assert facts["conversions"] == [
        {"to_u8": True, "source": "input", "readers": ["conv"]},
        {"to_u8": False, "source": "QuantizedMultiply", "readers": ["GlobalAveragePool"]},
    ]
    shown = run("inspect", path).stdout
    assert "block4x1, int8 30.2 dB" in shown
    assert "0 of 2 layers kept float values\n" in shown
    assert "conversions of images in each run: 2\n" in shown
    assert re.search(r"float32 to u8 +input +conv\n", shown)


def test_inspect_names_the_layers_that_kept_floats(tmp_path, checkpoint, capsys):
    """With the error that int8 would have made, where it was measured, or the kind that has no operator in bytes."""
    rng = np.random.default_rng(0)
    made = [layer_record(rng, random_weight(rng, name), 3) for name in ("bytes", "kept", "asked for")]
    made[0], made[1] = replace(made[0], value_type=INT8), replace(made[1], sqnr_db=(12.25, 9.5, 15.0))
    made.append(layer_record(rng, random_weight(rng, "hidden", 12, 3), 3, "lstm"))
    path = write_layers(tmp_path / "mixed.safetensors", made)
    with Checkpoint.open(path) as opened:
        inspect._print({**inspect.describe(opened), "conversions": []})
    assert (
        "3 of 4 layers kept float values: kept (9.5 dB), asked for, hidden (lstm has no int8 operator)\n"
        in capsys.readouterr().out
    )
    assert "kept float" not in run("inspect", checkpoint).stdout


def test_inspect_shows_the_dense_modules(checkpoint):
    """The share of the whole network's FLOPs that is sparse, and what is not; older files say what they count."""
    assert json.loads(run("inspect", checkpoint, "--json").stdout)["network"] is None
    assert "of its nested layers alone" in run("inspect", checkpoint).stdout
    dense = DenseModule("conv1", 19_800_000_000, 300, "Conv3d is not nested")
    network = Network(20_000_000_000, 200_000_000, 396, (dense,))
    with Checkpoint.open(checkpoint) as opened:
        header = header_bytes(replace(opened.metadata, network=network))
        write_file(checkpoint, header, [opened.data_prefix(2)], force=True)
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)["network"]
    assert (facts["flops"], facts["sparse_share"], facts["dense"][0]["why"]) == (network.flops, 0.01, dense.why)
    shown = run("inspect", checkpoint).stdout
    assert "1.0% of the network's 20 GFLOP are in sparse layers" in shown
    assert "19,800,000,000" in shown
    assert "Conv3d is not nested" in shown
    assert run("slice", checkpoint, "--levels", "1", "-o", checkpoint.with_name("cut")).exit_code == 0
    with Checkpoint.open(checkpoint.with_name("cut")) as cut:
        assert cut.metadata.network == network


def test_names_in_a_file_do_not_steer_the_terminal(checkpoint, capfd):
    """Hostile names in a file neither control the terminal nor fill it."""
    hostile = "\x1b[2J\x1b]0;title\x07\r\nforged\u202e" + 900 * "x"
    with Checkpoint.open(checkpoint) as opened:
        weight, norms = opened.load_layer("fc")
    record = LayerRecord(replace(weight, name=hostile), norms, "linear", {})
    write_checkpoint(
        checkpoint,
        graph_builder=linear_chain([record], 2, ends=(hostile, hostile)),
        layers=[record],
        levels=[LevelRecord(0.2, 40, {hostile: 0.5}), LevelRecord(0.5, 96, {})],
        inputs=[TensorSpec(hostile, "float32", (None, COLUMNS), (1, COLUMNS))],
        outputs=[TensorSpec(hostile, "float32", (None, ROWS), (1, ROWS))],
        reroutes=[Reroute(1, 0, {hostile: 0.25})],
        force=True,
    )
    result = run("inspect", checkpoint)
    assert result.exit_code == 0
    assert r"\x1b[2J\x1b]0;title\x07\r\nforged\u202e" in result.stdout.replace("\n", "")
    assert all(line.isprintable() for line in result.stdout.split("\n"))
    assert len(result.stdout) < 20_000
    named = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert named["layers"][0]["name"] == hostile


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (CheckpointError("a: \x1b[2J\r\nforged"), [r"nested-sparse: a: \x1b[2J", "  forged"]),
        (CheckpointError("a:\n  one\n  two"), ["nested-sparse: a:", "  one", "  two"]),
        (CheckpointError("\n" * 100_000), None),
        (CheckpointError("x" * 100_000), None),
    ],
)
def test_the_text_of_any_error_is_printable_and_short_on_stderr(monkeypatch, capsys, error, lines):
    """No line of it resembles a log line."""

    def fail():
        raise error

    monkeypatch.setattr(cli.app, "main", lambda **_: fail())
    code, out, err = run_main(monkeypatch, capsys)
    assert (code, out) == (1, "")
    assert lines is None or err.splitlines() == lines
    assert all(line.isprintable() for line in err.split("\n"))
    assert len(err) < 6000


def test_wrong_usage_is_said_without_commands_for_a_terminal(monkeypatch, capsys):
    """The words that were typed come back escaped, and cut where they are very long; exit code 2."""
    code, out, err = run_main(monkeypatch, capsys, "inspect", "a", "\x1b[2J\x07\u202e")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == r"Error: Got unexpected extra argument (\x1b[2J\x07\u202e)"
    assert "nested-sparse inspect --help" in err
    code, _, err = run_main(monkeypatch, capsys, "x" * 5000)
    assert code == 2
    assert len(err) < 1500


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "a", "--tolerance", "nan"], "expected a number of at least 0 and of at most 1, got 'nan'"),
        (["top", "--interval", "x"], "expected a number of at least 0.05, got 'x'"),
        (["serve", "a", "--port", "70000"], "expected a whole number of at least 0 and of at most 65535, got '70000'"),
        (["publish", "."], "expected the path of a file"),
    ],
)
def test_a_wrong_value_is_said_with_the_right_ones(arguments, said, monkeypatch, capsys):
    code, out, err = run_main(monkeypatch, capsys, *arguments)
    assert code in (1, 2)
    assert out == ""
    assert said in err


def test_an_interrupt_has_the_code_of_its_signal(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.app, "main", interrupted)
    assert run_main(monkeypatch, capsys) == (130, "", "nested-sparse: stopped\n")
    monkeypatch.undo()
    monkeypatch.setattr(cli.app.commands["inspect"], "callback", interrupted)
    code, out, err = run_main(monkeypatch, capsys, "inspect", "a")
    assert (code, out) == (130, "")
    assert err.endswith("nested-sparse: stopped\n")


def test_help_and_version_go_through_our_stdout(monkeypatch, capsys):
    """Without an own stream of click's, whose errors are lost."""
    for flag in ("--help", "--version"):
        code, out, err = run_main(monkeypatch, capsys, flag)
        assert (code, err) == (0, "")
        assert "nested-sparse" in out
    code, out, err = run_main(monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert "Commands:" in err


def test_an_unforeseen_error_is_a_log_line(checkpoint):
    """The line has the traceback, with the text of the error escaped; the exit code is 1."""
    script = (
        "import sys\nfrom nested_sparse.serving import cli\n"
        "def fail(): raise RuntimeError('a\\x1b[2J\\nb')\n"
        "cli.app.main = lambda **_: fail()\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "CRITICAL nested-sparse failed; please report this" in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[-1] == r"  RuntimeError: a\x1b[2J\nb"


def test_slice_writes_the_first_level_and_keeps_an_existing_file(checkpoint, tmp_path):
    """A smaller file that holds the first level; an existing one is kept unless forced."""
    output = tmp_path / "small.safetensors"
    facts = json.loads(run("slice", checkpoint, "--levels", 1, "-o", output, "--json").stdout)
    assert facts["nbytes"] == output.stat().st_size < checkpoint.stat().st_size
    with Checkpoint.open(output) as sliced:
        assert len(sliced.levels) == 1
    assert run("slice", checkpoint, "--levels", 2, "-o", output).exit_code == 1
    result = run("slice", checkpoint, "--levels", 2, "-o", output, "--force")
    assert result.exit_code == 0
    assert "2 levels" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "absent.safetensors"), "absent.safetensors"),
        (("profile", "absent.safetensors"), "absent.safetensors"),
        (("serve", "absent.safetensors"), "absent.safetensors: no such file"),
        (("slice", "absent.safetensors", "--levels", "1", "-o", "out.safetensors"), "absent.safetensors"),
        (("inspect", "{path}.cut"), "net.safetensors.cut"),
        (("slice", "{path}", "--levels", "3", "-o", "{path}.out"), "has 2 levels; keep 1 to 2, got 3"),
        (("slice", "{path}", "--levels", "1", "-o", "{path}"), "net.safetensors"),
        (("slice", "{path}", "--levels", "1", "-o", "{path}", "--force"), "is the file to cut"),
        (("serve", "{path}", "{path}"), "would both be served as 'net'"),
        (("top", "nonsense"), "address: expected HOST:PORT, as 127.0.0.1:8001 or [::1]:8001, got 'nonsense'"),
        (("top", "127.0.0.1:1", "--once"), "no inference server answers at 127.0.0.1:1 (ServerMetadata: UNAVAILABLE"),
        (("bench", "serving", "absent.safetensors"), "absent.safetensors: no such file (FILE)"),
    ],
)
def test_our_errors_are_one_line(checkpoint, monkeypatch, capsys, tmp_path, arguments, message):
    """Exit code 1, one line on stderr, nothing on stdout, no traceback."""
    monkeypatch.chdir(tmp_path)
    checkpoint.with_name("net.safetensors.cut").write_bytes(checkpoint.read_bytes()[:-100])
    code, out, err = run_main(monkeypatch, capsys, *(each.format(path=checkpoint) for each in arguments))
    assert code == 1
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("slice", "a"),
        ("inspect", "a", "--nonsense"),
        ("serve", "a", "--port", "70000"),
        ("serve", "a", "--policy", "greedy"),
        ("serve", "a", "--policy", ""),
        ("serve", "a", "--policy", "slackfit", "--level", "0"),
        ("frobnicate",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    """The code is that of all command line tools."""
    assert run(*arguments).exit_code == 2


def test_the_policies_are_named_by_the_help_and_by_the_error():
    """Those of the one registry, which the command line imports no sooner than it needs them."""
    shown, refused = run("serve", "--help"), run("serve", "a", "--policy", "greedy")
    for name, kind in POLICIES.items():
        assert name in shown.stdout
        assert kind.summary.split()[0] in shown.stdout
        assert name in refused.output


@pytest.mark.parametrize("verb", ["inspect", "slice", "profile", "serve", "top"])
def test_help_is_useful(verb):
    """The help has a description, units or defaults, and an example."""
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"nested-sparse {verb}" in result.stdout
    assert "Example" in result.stdout


def test_import_is_light():
    """--help waits for no torch, no gRPC, no ONNX Runtime."""
    script = (
        "import sys, nested_sparse.serving.cli\n"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'grpc', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("level", "code"), [(-1, 1), (-2, 2)])
def test_serve_takes_the_densest_level_by_minus_one(tmp_path, level, code):
    """Which an error message promises; the file that is missing is what ends it."""
    assert run("serve", tmp_path / "missing.safetensors", "--level", level).exit_code == code


@pytest.mark.parametrize("verb", ["inspect", "profile", "serve"])
def test_hostile_graphs_end_every_verb_that_reads_them(verb, tmp_path, monkeypatch, capsys):
    """The error is one line, no traceback; `slice` copies a graph without reading it."""
    tamper = before_output([], [external(floats("extra", [1.0]), "etc/passwd")])
    path = write_hostile(tmp_path / "m.safetensors", tamper)
    code, _, err = run_main(monkeypatch, capsys, verb, path)
    assert code == 1
    assert "m.safetensors: its graph holds TensorProto.external_data" in err
    assert "Traceback" not in err
    output = tmp_path / "part.safetensors"
    assert run_main(monkeypatch, capsys, "slice", path, "--levels", 1, "-o", output)[0] == 0
    assert run_main(monkeypatch, capsys, verb, output)[0] == 1
