"""Streams: the command line with closed, narrow or full standard streams, homes and disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nested_sparse
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.whole_file import write_whole
from support import EXAMPLE

COMMAND = (sys.executable, "-m", "nested_sparse.serving.cli")
HELP = [[verb, "--help"] for verb in ("serve", "inspect", "slice", "profile", "top", "train", "demo")]
HELP += [["bench", "kernels", "--help"], ["bench", "serving", "--help"], ["--help"], ["--version"]]
EVERY_HELP = f"""
import json, sys
from nested_sparse.serving import cli

codes = []
for arguments in {HELP!r}:
    sys.argv = ["nested-sparse", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        codes.append(end.code)
open({{out!r}}, "w").write(json.dumps(codes))
"""
ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "160"}
NO_FULL = "this user has no /dev/full to write to"
full_device = pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason=NO_FULL)


def run(*command: object, streams: str = "", **changes: Any) -> subprocess.CompletedProcess[str]:
    """A command with its streams as the shell's words `streams` make them; changes: of the environment."""
    words = ["sh", "-c", f'exec "$@" {streams}', "sh", *map(str, command)]
    return subprocess.run(
        words, capture_output=True, stdin=subprocess.DEVNULL, encoding="utf-8", errors="surrogateescape", timeout=300,
        env={**os.environ, **changes}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ""])
def test_every_verb_starts_on_any_streams(tmp_path: Path, streams: str) -> None:
    """Help of each, in turn in one process; the last one is a terminal of ASCII, and gets nothing else."""
    if "full" in streams and not os.access("/dev/full", os.W_OK):
        pytest.skip(NO_FULL)
    out = tmp_path / "codes"
    changes = {} if streams else ASCII
    done = run(sys.executable, "-c", EVERY_HELP.format(out=str(out)), streams=streams, **changes)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(out.read_text()) == [0] * len(HELP)
    if not streams:
        assert done.stdout.isascii()
        assert done.stdout.count("Usage: ") == len(HELP) - 1
        assert "degC of the hottest thermal zone" in done.stdout


def test_version_prints_that_of_the_package() -> None:
    """The version is that of the package and its metadata."""
    done = run(*COMMAND, "--version")
    assert (done.returncode, done.stdout) == (0, f"nested-sparse {nested_sparse.__version__}\n")
    project = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{nested_sparse.__version__}"\n' in project


def test_tables_on_a_terminal_of_ascii() -> None:
    """Likenesses of what it lacks, and no traceback."""
    done = run(*COMMAND, "inspect", EXAMPLE, **ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "16 x 1 x 3 x 3" in done.stdout


@pytest.mark.parametrize("streams", [">&-", "2>&-"])
def test_results_and_errors_keep_their_streams(streams: str) -> None:
    """A closed stream drops its own output; an error is never printed as a result."""
    good, bad = run(*COMMAND, "inspect", EXAMPLE, streams=streams), run(*COMMAND, "inspect", "absent", streams=streams)
    assert (good.returncode, good.stderr) == (0, "")
    assert ("verified: nesting" in good.stdout) == (streams == "2>&-")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert ("absent: cannot be read" in bad.stderr) == (streams == ">&-")


def test_a_closed_number_is_not_given_to_a_file(tmp_path: Path) -> None:
    """A file opened next would else get it, and what a C library prints would go into that file."""
    script = (
        "import os, sys; from nested_sparse.serving.streams import prepare_streams; prepare_streams()\n"
        "file = open(sys.argv[1], 'wb'); assert file.fileno() > 2, file.fileno()\n"
        "os.write(1, b'x'); os.write(2, b'x')\n"
        "import subprocess; subprocess.run(['sh', '-c', 'echo >&2 child'], check=True)\n"
    )
    done = run(sys.executable, "-c", script, tmp_path / "file", streams="<&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


@full_device
@pytest.mark.parametrize("arguments", [("inspect", str(EXAMPLE)), ("inspect", str(EXAMPLE), "--json"), ("--version",)])
def test_results_that_cannot_be_written_are_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*COMMAND, *arguments, streams=">/dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("nested-sparse: the standard output cannot be written (No space left on device)")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    """The reader closes the pipe, as `head` does."""
    done = run("sh", "-c", f"'{sys.executable}' -m nested_sparse.serving.cli inspect '{EXAMPLE}' | head -n 1")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@full_device
def test_a_server_that_cannot_say_where_it_is_ends_in_order() -> None:
    """A server that cannot print its address ends, because the program that started it waits for that line."""
    options = ("--port", "0", "--threads", "1", "--json", "--profile-cache", "off")
    done = run(*COMMAND, "serve", str(EXAMPLE), *options, streams=">/dev/full")
    assert done.returncode == 1
    assert "the standard output cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("streams", ["2>&-", "<&- 2>/dev/full"])
def test_a_server_without_a_log(tmp_path: Path, streams: str) -> None:
    """As service managers start it: it gets ready, says so on stdout, and ends in order; also for who has no name.

    No passwd entry, no home: what root may become, and what of it others have.
    """
    if "full" in streams and not os.access("/dev/full", os.W_OK):
        pytest.skip(NO_FULL)
    environment = {name: os.environ[name] for name in os.environ.keys() - {"HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"}}
    options = ("--port", "0", "--threads", "1", "--json", "--slo-ms", "60000")
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", *COMMAND, "serve", str(EXAMPLE), *options]
    nobody = {"user": 54321, "group": 54321, "extra_groups": []} if os.geteuid() == 0 and _others_may_run() else {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **nobody) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["models"][0]["name"] == "fashion-mnist"
            process.send_signal(signal.SIGTERM)
            assert process.wait(180) == 0
        finally:
            process.kill()


def _others_may_run() -> bool:
    """Whether this Python and this tree can be read by all: root's own folder often cannot."""
    paths = (Path(sys.executable).resolve(), Path(nested_sparse.__file__).resolve(), EXAMPLE.resolve())
    return all(each.stat().st_mode & 0o4 for path in paths for each in (path, *path.parents))


def test_no_place_for_temporary_files() -> None:
    """`profile` needs one: a line says so, and where it looked."""
    script = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/absent']; from nested_sparse.serving.cli "
    script += "import main; main()"
    done = run(sys.executable, "-c", script, "profile", EXAMPLE, "--repeats", "1", "--threads", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No usable temporary directory found in ['/absent']" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
from nested_sparse.serving.cli import main
main()
"""
"""A limit of what a file may have is a full disk to who writes one, for any user."""


def test_a_checkpoint_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """One line names it, and nothing is left of it."""
    pytest.importorskip("resource", reason="this system bounds no files")
    cut = tmp_path / "cut.safetensors"
    done = run(sys.executable, "-c", FULL_DISK, "slice", EXAMPLE, "--levels", "1", "-o", cut)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"nested-sparse: {cut}: cannot be written (File too large)")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_latency_profile_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """The server serves all the same, and says that it keeps none."""
    pytest.importorskip("resource", reason="this system bounds no files")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from nested_sparse.runtime.profiling.profile import LatencyProfile
    from nested_sparse.runtime.profiling.profile_store import ProfileStore

    script = (
        "import logging, resource, sys; from pathlib import Path\n"
        "from nested_sparse.runtime.profiling.profile import LatencyProfile\n"
        "from nested_sparse.runtime.profiling.profile_store import ProfileStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); logging.basicConfig(stream=sys.stderr)\n"
        "profile = LatencyProfile([1], [[1.0], [2.0]])\n"
        "assert ProfileStore(Path(sys.argv[1])).save({'a': 1}, profile).to_json() == profile.to_json()\n"
    )
    store = ProfileStore(tmp_path / "profiles")
    store.save({"a": 1}, LatencyProfile([1], [[1.5], [2.5]]))
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    done = run(sys.executable, "-c", script, store.folder)
    assert done.returncode == 0, done.stderr
    assert f"latency profile: not kept, {store.folder}: File too large" in done.stderr
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == before


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The error comes after a training, whose checkpoint is kept."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    picture = pytest.importorskip("nested_sparse.trainer.picture", reason="torch is not installed")
    level = {"flops": 1e6, "accuracy": 0.5, "density": 0.1}
    with pytest.raises(TrainingError, match=r"absent/run\.png: the picture cannot be written \(No such file"):
        picture.draw(tmp_path / "absent" / "run.png", "net", [level], {"flops": 2e6, "accuracy": None}, "test")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training states and records, of which a disk that runs full may take none away."""
    state = pytest.importorskip("nested_sparse.trainer.state", reason="torch is not installed")
    from nested_sparse.trainer.recipes.run_record import RunRecord

    path, record = tmp_path / "run.state", RunRecord(tmp_path / "run.json", {})
    state.save_state(path, {"epoch": 1})
    record.note(epochs=1)
    before = record.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match=r"run\.state: the training state cannot be written \(No space left"):
            state.save_state(path, {"epoch": 2})
        with pytest.raises(TrainingError, match=r"run\.json: the run's record cannot be written \(No space left"):
            record.note(epochs=2)
    assert state.load_state(path) == {"epoch": 1}
    assert record.path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.json", "run.state"]
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "absent" / "file", b"")


def test_the_cut_checkpoint_of_a_user_without_a_home_opens(tmp_path: Path) -> None:
    """A verb that writes, with no variable but the search path."""
    cut = tmp_path / "cut.safetensors"
    command = [*COMMAND, "slice", str(EXAMPLE), "--levels", "1", "-o", str(cut)]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with Checkpoint.open(cut) as checkpoint:
        assert len(checkpoint.levels) == 1
