"""Deleting what does not decrypt any more, and what was left half-deleted: nothing holds up what comes behind it."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import cast

import pytest
from marker_scan import scan_folder, scan_redis
from planted import HOST, Planted, planted, to_its_end

from coatcheck import keys
from coatcheck.account_erasure import AccountErasure, erasure_of
from coatcheck.core import Core, open_core
from coatcheck.errors import ArtifactDamaged
from coatcheck.sealed_fields import TEXT_MAGIC
from coatcheck.sealed_values import MAGIC
from web.app import create_app

KEY = "ann-key-0123456789abcdef"


@pytest.fixture
def core(settings, redis) -> Core:
    sealed = replace(settings, encryption_keys=base64.b64encode(bytes(range(32))).decode(), webhook_allow=HOST)
    return open_core(sealed, redis)


@pytest.fixture
def ann(core) -> Planted:
    found = planted(core, "ann")
    core.accounts.ensure("ann", KEY)
    damage(core)
    return found


def damage(core: Core) -> None:
    """Change a byte of every sealed value of a job or a version."""
    client, count = core.store.client, 0
    for family in ("job:", "version:"):
        for name in client.scan_iter(match=keys.PREFIX.replace("{", "\\{").replace("}", "\\}") + family + "*"):
            for field, value in cast(dict[bytes, bytes], client.hgetall(name)).items():
                if value.startswith((MAGIC, TEXT_MAGIC)):
                    client.hset(name, field, value[:-8] + b"AAAA" + value[-4:])
                    count += 1
    assert count > 10
    core.registry._remembered.clear()


def delete(core: Core, path: str) -> int:
    client = create_app(core).test_client()
    return client.delete(path, headers={"Authorization": f"Bearer {KEY}"}).status_code


def left(core: Core, found: Planted) -> list[str]:
    markers = found.markers.values()
    return scan_redis(core.store.client, markers) + scan_folder(core.settings.home / "artifacts", markers)


def test_an_account_whose_records_do_not_decrypt_is_deleted_like_any_other(core, ann):
    with pytest.raises(ArtifactDamaged):
        core.store.get(ann.ended["prediction"])
    accounts = AccountErasure(core, settled_ms=0)
    accounts.begin("ann")
    core.store.expire_worker("")
    progress = to_its_end(accounts, "ann")
    assert dict(progress.removed).items() >= {"models": 2, "versions": 1, "files": 2, "batches": 1}.items()
    assert left(core, ann) == []


@pytest.mark.parametrize("what", ["prediction", "training", "batch"])
def test_a_job_that_does_not_decrypt_is_deleted_by_its_owner(core, ann, what):
    job_id, folder = ann.ended[what], f"{what}s".replace("batchs", "batches")
    assert delete(core, f"/v1/{folder}/{job_id}") == 200
    assert not core.store.client.exists(keys.job(job_id))
    assert delete(core, f"/v1/{folder}/{job_id}") == 410


def test_a_foreign_job_is_not_deleted(core, ann):
    planted(core, "bob")
    core.store.client.hset(keys.job(ann.ended["prediction"]), "account", "bob")
    assert delete(core, f"/v1/predictions/{ann.ended['prediction']}") == 404
    assert delete(core, f"/v1/trainings/{ann.ended['batch']}") == 404
    assert core.store.client.exists(keys.job(ann.ended["prediction"]))


@pytest.mark.parametrize("path", ["/versions/1", "?with_versions=true"])
def test_a_version_and_a_model_that_do_not_decrypt_are_deleted_by_their_owner(core, ann, path):
    name = ann.markers["model name"]
    core.store.client.hdel(keys.aliases("ann", name), "production")
    assert delete(core, f"/v1/models/ann/{name}{path}") == 204
    assert [line for line in left(core, ann) if ann.markers["weights"] in line] == []


def test_a_version_whose_files_were_not_removed_with_its_record_loses_them_later(core, monkeypatch):
    ann = planted(core, "ann")
    name = ann.markers["model name"]
    (version,) = core.registry.versions("ann", "ann", name)
    core.store.client.hdel(keys.aliases("ann", name), "production")

    def cut_off(*_):
        raise KeyboardInterrupt  # as a kill: nothing behind the record's removal is done

    with monkeypatch.context() as patch:
        patch.setattr(type(core.artifacts), "delete", cut_off)
        with pytest.raises(KeyboardInterrupt):
            erasure_of(core).version("ann", "ann", name, "1")
    assert core.registry.versions("ann", "ann", name) == []
    assert core.artifacts.list(version.prefix)
    assert erasure_of(core).finish() == 1
    assert core.artifacts.list(version.prefix) == []
    assert core.store.client.zcard(keys.DOOMED) == 0
