"""Resident memory: its measurement per level in a separate process."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
from mappings import mappings

from chain import Written, write
from nested_sparse.errors import KernelError
from nested_sparse.runtime.profiling.resident import measure_resident
from nested_sparse.runtime.session.process_memory import anonymous_bytes, resident_bytes, return_freed
from nested_sparse.runtime.session.session import Session
from support import layer_record, random_weight

pytestmark = pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="what is resident is read from /proc")
PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
AROUND = 64 << 10  # the kernel maps so much around a page of a file that is touched


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Levels of some 100 KB and more, far above a page."""
    rng = np.random.default_rng(3)
    weights = [random_weight(rng, name, 512, 512, block_rows=4) for name in ("first", "second")]
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    return write(path, [layer_record(rng, weight, 3) for weight in weights], 3)


def test_counts_the_pages_that_were_touched() -> None:
    """A fresh anonymous mapping has none, then those written to, each only within the array."""
    with mmap.mmap(-1, 16 * PAGE, PRIVATE) as pages:
        data = np.frombuffer(pages, np.uint8)
        assert resident_bytes(data) == 0
        for page in (1, 2, 7):
            data[page * PAGE] = 1
        assert resident_bytes(data) == 3 * PAGE
        assert resident_bytes(data[PAGE + 10 : 3 * PAGE - 20]) == 2 * PAGE - 30
        assert resident_bytes(data[:0]) == 0
        pages.madvise(mmap.MADV_DONTNEED)
        assert resident_bytes(data) == 0
        del data


def test_anonymous_bytes_grow_with_written_memory() -> None:
    """64 MiB more, and as much less when they are gone; what other tests freed goes back before."""
    return_freed()
    before = anonymous_bytes()
    assert before is not None
    with mmap.mmap(-1, 64 << 20, PRIVATE) as pages:
        for begin in range(0, len(pages), mmap.PAGESIZE):
            pages[begin] = 1
        assert (anonymous_bytes() or 0) - before > 48 << 20
    assert (anonymous_bytes() or 0) - before < 16 << 20


def test_resident_bytes_per_level_follow_the_level(large: Written) -> None:
    """Together what smaps says; a level's segment comes with its run and goes when the resident level falls."""
    x = {"input": np.ones((1, 512), np.float32)}
    with Session(large.path, threads=1) as session:
        session.resident_level = 0
        session.run(x, 0)
        sparse = session.resident_bytes()
        assert sparse is not None
        assert len(sparse) == 3
        assert sparse[2] <= AROUND
        session.run(x, 2)
        dense = session.resident_bytes()
        assert dense is not None
        for level in range(3):
            assert dense[level] >= 0.9 * session._checkpoint.segment(level).nbytes
        assert abs(sum(dense) - sum(rss for _, _, rss in mappings(large.path))) <= PAGE
        session.resident_level = 0
        shrunk = session.resident_bytes()
        assert shrunk is not None
        assert shrunk[0] == dense[0]
        assert shrunk[1] < PAGE
        assert shrunk[2] == 0
        np.testing.assert_allclose(session.run(x, 2)["output"], large.reference(x["input"], 2), rtol=1e-3, atol=1e-3)


def test_measured_in_a_process_of_its_own(large: Written) -> None:
    """The states differ as the levels do, and the parts make up the ratio."""
    found = measure_resident(large.path)
    assert sum(found.densest.segments_bytes) > sum(found.sparsest.segments_bytes) > sum(found.loaded.segments_bytes)
    assert sum(found.shrunk.segments_bytes[1:]) < PAGE
    growth = max(0, found.shrunk.anonymous_bytes - found.loaded.anonymous_bytes)
    assert found.shrunk_bytes == sum(found.shrunk.segments_bytes) + growth
    assert found.ratio == found.shrunk_bytes / (found.share_bytes + found.activations_bytes)


def test_says_why_it_could_not_measure(tmp_path: Path) -> None:
    """The child's last line."""
    with pytest.raises(KernelError, match=r"could not be measured: .*absent"):
        measure_resident(tmp_path / "absent.safetensors")
