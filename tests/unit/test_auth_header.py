"""What is said of an Authorization header that is none of ours never repeats a part of a key."""

from __future__ import annotations

from typing import cast

import pytest

from coatcheck.errors import Unauthenticated
from coatcheck.key_check import KeyCheck
from web.auth import check_header

KEY = "cc_9e4eb5fe_270a5608f1d34c0a96b7_12ab34"


@pytest.mark.parametrize("header", [KEY, f"{KEY} ", f"key {KEY}", f"{KEY} {KEY}", f"Bearer: {KEY}"])
def test_key_without_the_word_bearer_is_refused_and_not_repeated(header):
    with pytest.raises(Unauthenticated) as caught:
        check_header(cast(KeyCheck, None), header)
    told = str(caught.value)
    assert "without the word Bearer" in told
    assert not any(part in told for part in KEY.split("_")[1:])


@pytest.mark.parametrize("header", ["", " ", "\t"])
def test_header_without_a_word_is_no_key(header):
    with pytest.raises(Unauthenticated, match="No key was sent"):
        check_header(cast(KeyCheck, None), header)


@pytest.mark.parametrize("scheme", ["Basic", "token"])
def test_scheme_of_another_kind_is_named(scheme):
    with pytest.raises(Unauthenticated, match=f"sent as {scheme} without"):
        check_header(cast(KeyCheck, None), f"{scheme} {KEY}")
