"""Every setting can be given, bad ones are named, unknown ones refused; the table in README is complete."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from coatcheck.errors import SettingsError
from coatcheck.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


def test_nothing_set_gives_the_defaults():
    assert Settings.from_env({}) == Settings()


def test_empty_value_means_the_default():
    assert Settings.from_env({"COATCHECK_PORT": "", "COATCHECK_REDIS_URL": ""}) == Settings()


def test_values_get_their_type():
    settings = Settings.from_env(
        {
            "COATCHECK_HOME": "/srv/coat",
            "COATCHECK_PORT": "9000",
            "COATCHECK_TICK_S": "0.25",
            "COATCHECK_REQUIRE_GPU": "yes",
            "COATCHECK_ACCOUNT": "team-a",
        }
    )
    assert settings.home == Path("/srv/coat")
    assert (settings.port, settings.tick_s, settings.require_gpu, settings.account) == (9000, 0.25, True, "team-a")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("COATCHECK_PROT", "8000", "COATCHECK_PROT is not a setting"),
        ("COATCHECK_PORT", "eight", "expected a whole number"),
        ("COATCHECK_PORT", "8000.5", "expected a whole number"),
        ("COATCHECK_PORT", "70000", "expected 1 to 65535"),
        ("COATCHECK_TICK_S", "nan", "expected 0.01 to 60"),
        ("COATCHECK_REQUIRE_GPU", "maybe", "expected 1 or 0"),
        ("COATCHECK_API_KEY", "short", "20 or more printable characters"),
        ("COATCHECK_API_KEY", "with a space 0123456789", "without spaces"),
        ("COATCHECK_ACCOUNT", "Team A", "expected lower-case letters"),
        ("COATCHECK_ACCOUNT", "catalog", "COATCHECK_ACCOUNT"),
        ("COATCHECK_REDIS_URL", "http://localhost", "expected redis://"),
        ("COATCHECK_PUBLIC_URL", "example.org", "expected http://"),
        ("COATCHECK_LOG_LEVEL", "loud", "expected debug"),
        ("COATCHECK_LOG_FORMAT", "xml", "expected console or json"),
        ("COATCHECK_PREDICT_HEARTBEAT_S", "8", "at most half the lease"),
    ],
)
def test_bad_value_is_refused_with_its_name_and_what_was_expected(name, value, words):
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({name: value})
    assert name in str(refusal.value)
    assert words in str(refusal.value)


def test_secret_value_is_not_in_the_refusal():
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({"COATCHECK_API_KEY": "hunter2"})
    assert "hunter2" not in str(refusal.value)
    assert "a-key-of-the-user-012345" not in repr(Settings(api_key="a-key-of-the-user-012345"))


def test_what_kubernetes_adds_is_not_taken_for_a_typing_error():
    environ = {"COATCHECK_SERVICE_HOST": "10.0.0.1", "COATCHECK_PORT_8000_TCP": "tcp://10.0.0.1:8000"}
    assert Settings.from_env(environ) == Settings()


def test_port_that_kubernetes_overwrote_is_refused_with_the_remedy():
    with pytest.raises(SettingsError, match="enableServiceLinks: false"):
        Settings.from_env({"COATCHECK_PORT": "tcp://10.0.0.1:8000"})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_embedded_redis_has_a_short_socket_whatever_the_home():
    short, long = Settings(home=Path("/srv/coat")), Settings(home=Path("/srv") / ("x" * 120))
    assert short.effective_redis_url == "unix:///srv/coat/redis/redis.sock?db=0"
    assert len(str(long.redis_socket)) <= 107
    assert long.redis_socket == Settings(home=Path("/srv") / ("x" * 120)).redis_socket


def test_every_setting_stands_in_readme_with_its_default():
    table = dict(re.findall(r"^\| `(COATCHECK_\w+)` \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert set(table) == {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
