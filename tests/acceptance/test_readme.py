"""README's five minutes are run as they stand: the curl lines in a shell, the client's block in Python."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck.settings import Settings
from examples.service import running_service

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(containing: str) -> str:
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return next(text for text in blocks if containing in text)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the service prints to paste, in the environment of a shell in a folder of its own."""
    folder = tmp_path_factory.mktemp("readme")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COATCHECK_HOME", str(folder / "home"))
        patch.setenv("COATCHECK_PORT", str(port))
        settings = Settings.from_env(os.environ)
        with running_service(settings):
            key = (settings.home / "api-key").read_text().strip()
            told = {"REPLICATE_API_TOKEN": key, "REPLICATE_BASE_URL": settings.base_url, "PWD": str(folder)}
            kept = {name: value for name, value in os.environ.items() if not name.startswith("COATCHECK_")}
            yield {**kept, **told, "PYTHONPATH": str(ROOT)}


def run(command: list[str], environment: dict[str, str]) -> str:
    answer = subprocess.run(
        command, cwd=environment["PWD"], env=environment, capture_output=True, text=True, check=False, timeout=150
    )
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.stdout


def follow(tour: str, environment: dict[str, str], exports: str) -> list[str]:
    """The answers of a block's curl lines, ids filled in as a reader would."""
    first, *calls = re.split(r"^(?=curl )", tour.replace("python -m", f"{sys.executable} -m"), flags=re.MULTILINE)
    run(["bash", "-ec", first], environment)
    ids: dict[str, str] = {}
    answers = []
    for call in calls:
        for name, value in ids.items():
            call = call.replace(f"<{name} id>", value)  # noqa: PLW2901 - the line as a reader would fill it in
        answers.append(run(["bash", "-ec", exports + call], environment))
        while "?wait=" in call and json.loads(answers[-1])["state"] in ("queued", "running"):
            answers[-1] = run(["bash", "-ec", exports + call], environment)
        for name, path in (("file", "/files"), ("training", "/trainings"), ("prediction", "/predictions"),
                           ("batch", "/batches")):  # fmt: skip
            if re.search(rf"{path}( |$)", call.splitlines()[0]):
                ids[name] = json.loads(answers[-1])["id"]
    return answers


EXPORTS = next(line + "\n" for line in README.splitlines() if line.startswith("AUTH="))


def test_curl_lines_train_and_predict(environment):
    answers = follow(block("examples.digits"), environment, EXPORTS)
    events = answers[3]
    assert "event: done" in events
    assert '"succeeded"' in events
    assert json.loads(answers[4])["output"]["label"] == "1"
    assert json.loads(answers[5])["state"] == "succeeded"


def test_file_is_scored_by_the_model_of_the_five_minutes(environment):
    answers = follow(block("-F file=@rows.csv"), environment, EXPORTS)
    assert json.loads(answers[1])["rows"] == {"total": 1798, "succeeded": 1797, "failed": 1}
    assert answers[2].splitlines()[0].endswith(",digit,label," + ",".join(f"probabilities.{n}" for n in range(10)))
    (error,) = map(json.loads, answers[3].splitlines())
    assert (error["row"], error["line"]) == (1798, 1799)


def test_own_data_is_reported_trained_promoted_and_taken_home(environment):
    answers = follow(block("examples.system_data"), environment, EXPORTS)
    trained = json.loads(answers[3])
    assert trained["state"] == "succeeded"
    assert trained["output"]["why"].startswith("catalog/mlp")
    assert trained["output"]["metrics"]["accuracy"] > trained["output"]["metrics"]["baseline"]["accuracy"]
    assert answers[4].startswith("# ")
    assert json.loads(answers[5])["number"] == 1
    assert json.loads(answers[6])["output"]["label"] in {"benign", "malignant"}
    assert (Path(environment["PWD"]) / "model.onnx").stat().st_size > 1000


def test_block_for_the_client_trains_and_predicts(environment):
    run([sys.executable, "-m", "examples.digits", "digits.csv"], environment)
    printed = run([sys.executable, "-W", "ignore", "-c", block("import replicate")], environment).splitlines()
    assert any(re.fullmatch(r"0\.9\d*", line) for line in printed), printed
    assert printed[-1].startswith("1 {")


@pytest.mark.parametrize(("dataset", "metric", "least"), [("iris", "accuracy", 0.85), ("diabetes", "r2", 0.2)])
def test_an_example_is_trained_by_one_command(environment, dataset, metric, least):
    printed = run([sys.executable, "-m", "examples.train", dataset], environment)
    found = re.search(rf"\b{metric} (-?[0-9.]+)", printed)
    assert found, printed
    assert float(found[1]) >= least
