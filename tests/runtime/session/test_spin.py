"""spin: threads that wait awake between layers. ONNX Runtime is told so, and answers stay the same."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from chain import small_chain, small_inputs
from nested_sparse.runtime.session import Session


def entry(session: Session, name: str) -> str:
    """The value that ONNX Runtime's own session has under a key."""
    value: str = session._ort.session.get_session_options().get_session_config_entry(name)
    return value


@pytest.mark.parametrize(("spin", "allowed"), [(True, "1"), (False, "0")])
def test_it_lasts_through_other_threads_and_a_pickle(tmp_path: Path, spin: bool, allowed: str) -> None:
    """Also where the graph is loaded again, in this process or in another."""
    written = small_chain(tmp_path / "model.safetensors")
    with Session(written.path, threads=2, spin=spin) as session:
        copy = pickle.loads(pickle.dumps(session))
        expected = session.run(small_inputs(), 1)["output"]
        session.threads = 1
        with copy:
            for each in (session, copy):
                assert each.spin is spin
                assert entry(each, "session.intra_op.allow_spinning") == allowed
                np.testing.assert_array_equal(each.run(small_inputs(), 1)["output"], expected)


def test_threads_sleep_between_two_runs(tmp_path: Path) -> None:
    """Else an idle server would keep a core busy."""
    written = small_chain(tmp_path / "model.safetensors")
    with Session(written.path, threads=2, spin=True) as session:
        assert entry(session, "session.force_spinning_stop") == "1"
