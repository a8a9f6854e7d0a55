"""ModelFolder: the models that it finds, and nothing outside of it."""

from __future__ import annotations

import os

import pytest

from nested_sparse.errors import InputError, NotFoundError, RepositoryError
from nested_sparse.serving.repository.folder import ModelFolder


@pytest.fixture
def root(tmp_path):
    """Models a (versions 1, 2 and 10, and names that are none) and b (no version), and files that are no models."""
    folder = tmp_path / "models"
    for name in ("1", "2", "10", "0", "01", "-1", "x", "1.5", str(2**63), "9" * 30):
        (folder / "a" / name).mkdir(parents=True)
        (folder / "a" / name / "model.safetensors").write_bytes(b"content")
    (folder / "b").mkdir()
    (folder / ".hidden" / "1").mkdir(parents=True)
    (folder / "file").write_bytes(b"")
    (tmp_path / "outside" / "1").mkdir(parents=True)
    (tmp_path / "outside" / "1" / "model.safetensors").write_bytes(b"secret")
    return folder


def test_models_and_versions_are_found(root):
    """Versions are numbers above 0, as Triton reads them; all other names are left out."""
    folder = ModelFolder(root)
    assert folder.names() == ["a", "b"]
    assert folder.versions("a") == [1, 2, 10]
    assert folder.versions("b") == []
    assert folder.checkpoint("a", 10) == root / "a/10/model.safetensors"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/../b", "/etc", "a/", "../outside", ".hidden", "a\0", "a\nb", "x" * 300]
)
def test_a_name_that_leads_elsewhere_is_none(root, name):
    folder = ModelFolder(root)
    for ask in (folder.versions, lambda name: folder.checkpoint(name, 1)):
        with pytest.raises(InputError, match="expected the name of one folder of the model directory"):
            ask(name)


def test_what_is_not_there(root):
    folder = ModelFolder(root)
    with pytest.raises(NotFoundError, match="no model 'c'"):
        folder.versions("c")
    with pytest.raises(NotFoundError, match="no model 'file'"):
        folder.versions("file")
    with pytest.raises(RepositoryError, match=r"a/3/model\.safetensors: there is no such file"):
        folder.checkpoint("a", 3)
    with pytest.raises(RepositoryError, match="expected a folder"):
        ModelFolder(root / "file")
    with pytest.raises(RepositoryError, match="expected a folder"):
        ModelFolder(root / "none")


@pytest.mark.parametrize("at", ["model", "version", "file"])
def test_a_link_out_of_the_folder_is_refused(root, at):
    """Of a model, of a version, of a file; also a relative one."""
    folder, outside = ModelFolder(root), "../outside"
    if at == "model":
        (root / "evil").symlink_to(outside)
        ask = [lambda: folder.versions("evil"), lambda: folder.checkpoint("evil", 1)]
    elif at == "version":
        (root / "a/7").symlink_to(root.parent / "outside/1")
        ask = [lambda: folder.checkpoint("a", 7)]
    else:
        (root / "a/8").mkdir()
        (root / "a/8/model.safetensors").symlink_to(root.parent / "outside/1/model.safetensors")
        ask = [lambda: folder.checkpoint("a", 8)]
    for each in ask:
        with pytest.raises(RepositoryError, match="leads out of the model directory"):
            each()
    assert folder.versions("a")  # the others are found as before


def test_links_within_the_folder_are_followed(root):
    """As volumes of Kubernetes have them; the path that is opened has no link that could be turned afterwards."""
    (root / "alias").symlink_to("a")
    (root / "a/11").symlink_to("10")
    folder = ModelFolder(root)
    assert folder.names() == ["a", "alias", "b"]
    assert folder.checkpoint("alias", 2) == root / "a/2/model.safetensors"
    assert folder.checkpoint("a", 11) == root / "a/10/model.safetensors"


def test_the_folder_itself_may_be_a_link(root):
    link = root.parent / "link"
    link.symlink_to(root)
    assert ModelFolder(link).checkpoint("a", 1) == root / "a/1/model.safetensors"


def test_loops_pipes_and_links_to_nothing(root):
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nothing")
    (root / "a/5").mkdir()
    os.mkfifo(root / "a/5/model.safetensors")
    folder = ModelFolder(root)
    assert folder.names() == ["a", "b"]
    with pytest.raises(RepositoryError, match="cannot be read"):
        folder.versions("loop")
    with pytest.raises(NotFoundError):
        folder.versions("dangling")
    with pytest.raises(RepositoryError, match="there is no such file"):
        folder.checkpoint("a", 5)
