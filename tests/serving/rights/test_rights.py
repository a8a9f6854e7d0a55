"""Rights: the calls that may be made with and without tokens."""

from __future__ import annotations

import hashlib

import pytest

from nested_sparse.errors import ForbiddenError, UnauthenticatedError
from nested_sparse.serving.rights.right import Right
from nested_sparse.serving.rights.rights import Rights
from nested_sparse.serving.rights.tokens import Client, Tokens

SECRET = "0123456789abcdefghij"
CAMERA = Client("camera", frozenset({Right.INFERENCE}))
TOKENS = Tokens({hashlib.sha256(SECRET.encode()).digest(): CAMERA})


@pytest.mark.parametrize("authorization", [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER  {SECRET} "])
def test_a_known_token_has_its_rights_only(authorization: str) -> None:
    rights = Rights(lambda: TOKENS)
    assert rights.check(authorization, "peer", Right.INFERENCE) is CAMERA
    for right in (Right.READING, Right.ADMINISTRATION):
        with pytest.raises(ForbiddenError, match="the token of 'camera' is good for inference; this call takes"):
            rights.check(authorization, "peer", right)


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", SECRET, f"Basic {SECRET}", "Bearer x", "x" * 9999]
)
@pytest.mark.parametrize("right", Right)
def test_without_a_known_token_nothing_is_allowed(authorization: str | None, right: Right) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        Rights(lambda: TOKENS).check(authorization, "peer", right)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("right", Right)
def test_a_local_server_without_tokens_allows_everything(right: Right) -> None:
    assert Rights().check(None, "peer", right).name == "peer"


def test_administration_over_the_network_takes_a_token() -> None:
    rights = Rights(local=False)
    rights.check(None, "peer", Right.INFERENCE)
    rights.check(None, "peer", Right.READING)
    with pytest.raises(ForbiddenError, match="--token-file"):
        rights.check("Bearer x", "peer", Right.ADMINISTRATION)
