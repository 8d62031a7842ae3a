"""The verbs pretrain and list, as a user meets them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundswell.archive.reader import Archive
from groundswell.cli import verbs  # noqa: F401 - registers the verbs
from groundswell.cli.app import application
from groundswell.cli.pretrain import split_inputs
from groundswell.config import parse_yaml, read_recipe, recipe_names, validate
from groundswell.training.checkpoint import Checkpoints
from groundswell.training.recipe import Recipe, resolve_recipe

SMALL = ["backbone.width=4", "view_size=32", "batch_size=16", "length.steps=3", "log_steps=1", "precision=fp32"]


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(application, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_pretrain_from_a_shipped_recipe_with_a_monitor(archive: Archive, output: Path) -> None:
    code, out, err = invoke(
        *("pretrain", archive.path, *SMALL, "--recipe", "demo", "-o", output, "--json"),
        *("--where", "split == 'train'", "--monitor", "pattern"),
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["steps"] == 3
    assert 0.0 <= report["metrics"]["monitor"] <= 1.0
    resolved = (output / "resolved.yaml").read_text()
    assert "steps: 3" in resolved
    lines = {line.split(":")[0].strip(): line for line in resolved.splitlines() if "#" in line}
    assert lines["where"].endswith("# --where")
    assert lines["width"].endswith("# command line")
    assert lines["temperature"].endswith("# recipe demo")
    assert lines["keep"].endswith("# default")
    assert lines["flip_azimuth"].endswith("# policy ocean")
    assert (output / "recipe.yaml").read_text() == read_recipe("demo")[1]


def test_torchrun_of_two_prints_one_result(archive: Archive, output: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "groundswell"]
    words = ["pretrain", str(archive.path), *SMALL, "device=cpu", "-r", "demo", "-o", str(output), "--json"]
    done = subprocess.run(
        [*launch, *words], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # one object: the second process says nothing
    assert (report["steps"], report["images"]) == (3, 48)
    assert '"processes": 2' in (output / "environment.json").read_text()


def test_a_job_of_slurm_goes_on_with_what_was_asked(
    archive: Archive, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 7\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    words = ("pretrain", archive.path, *SMALL, "-r", "demo", "-o", output)
    slurm = ("--launcher", "slurm", "--sbatch=--ntasks=2")
    code, out, err = invoke(*words, *slurm, "--monitor", "pattern", "--submit", "--json")
    assert code == 0, err
    script = Path(json.loads(out)["script"])
    assert json.loads(out) == {"run": str(output), "script": str(script), "job": "7"}
    assert script.parent == output.with_name("run.slurm")
    line = next(line for line in script.read_text().splitlines() if line.startswith("srun"))
    asked = ["pretrain", str(archive.path), *SMALL, "--recipe=demo", f"--output={output}", "--monitor=pattern"]
    assert f"-m groundswell {' '.join([*asked, '--resume'])} ||" in line
    assert "#SBATCH --ntasks=2\n" in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    # What would fail on the node fails here.
    (output / "resolved.yaml").touch()
    for wrong, why in (
        ((*words, *slurm), "already holds a run"),
        ((*words, *slurm, "--overwrite"), "must go on"),
        ((*words, "--launcher", "torchrun"), "only slurm"),
        ((*words, "--submit"), "--launcher slurm"),
        ((*words, *slurm, "bach_size=3"), "batch_size"),
        ((*words, *slurm, "batch_size=1000"), "a batch of 1000 needs as many images"),
        ((*words, *slurm, "--sbatch=--ntasks=3"), "cannot be cut into 3 equal parts"),
        ((*words, *slurm[:2], "--sbatch=--nodes=2", "--sbatch=--ntasks-per-node=3"), "into 6 equal parts"),
    ):
        code, _, err = invoke(*wrong)
        assert (code, why in err) == (2, True), err
    assert invoke(*words, *slurm, "--resume")[0] == 0
    gone = ("--init", tmp_path / "gone")
    code, _, err = invoke(*words, *slurm, "--resume", *gone)
    assert (code, "there is no model here" in err) == (3, True), err
    Checkpoints(output / "checkpoints").save(1, {})
    assert invoke(*words, *slurm, "--resume", *gone)[0] == 0  # the run has weights of its own


def test_a_settings_file_that_is_not_utf_8_is_named(archive: Archive, output: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("description: größer".encode("latin-1"))
    code, _, err = invoke("pretrain", archive.path, "-r", "demo", "-o", output, "--config", path)
    assert (code, "not UTF-8" in err, str(path) in err) == (2, True, True), err


@pytest.mark.parametrize("verb", ["pretrain", "views"])
def test_a_flag_wins_over_a_setting(archive: Archive, tmp_path: Path, verb: str) -> None:
    words = [
        verb,
        archive.path,
        "-r",
        "demo",
        "-o",
        tmp_path / "out.png",
        "where=nonsense",
        "--where",
        "split == 'test'",
    ]
    code, out, err = invoke(*words, *(["--print-config"] if verb == "pretrain" else ["--count", 1]))
    assert code == 0, err
    assert "nonsense" not in out
    assert verb == "views" or re.search("^where: .*split == .*test", out, re.MULTILINE)


def test_print_config_shows_origins_and_touches_nothing(archive: Archive, output: Path) -> None:
    code, out, _ = invoke("pretrain", archive.path, *SMALL, "-r", "demo", "-o", output, "--print-config")
    assert code == 0
    assert not output.exists()
    assert validate(Recipe, parse_yaml(out, "printed")).batch_size == 16
    for line, origin in (
        ("  width: 4", "command line"),
        ("  temperature: 0.1", "recipe demo"),
        ("  flip_azimuth: ", "policy ocean"),
        ("  max_growth: 10.0", "default"),
    ):
        (found,) = re.findall(rf"^ *{re.escape(line)}.*# (.*)$", out, re.MULTILINE)
        assert found == origin, line
    _, out, _ = invoke("pretrain", *SMALL, "-r", "demo", "-o", output, "--print-config", "--json")
    origins = json.loads(out)["origins"]
    assert (origins["backbone.width"], origins["method.temperature"]) == ("command line", "recipe demo")


@pytest.mark.parametrize(
    ("wrong", "suggestion"),
    [("optimiser.learning_rat=1", "unknown setting"), ("bach_size=3", "'batch_size'"), ("length.epoch=3", "'epochs'")],
)
def test_a_mistyped_setting_is_an_error_with_a_suggestion(
    archive: Archive, output: Path, wrong: str, suggestion: str
) -> None:
    code, _, err = invoke("pretrain", archive.path, wrong, "-r", "demo", "-o", output)
    assert code == 2
    assert suggestion in err
    assert not output.exists()


def test_a_length_on_the_command_line_replaces_the_recipe_s() -> None:
    values, _ = read_recipe("demo")
    recipe, origins = resolve_recipe([("recipe demo", values)], ["length.epochs=2"])
    assert (recipe.length.minutes, recipe.length.epochs) == (None, 2)
    assert origins["length.epochs"] == "command line"
    recipe, _ = resolve_recipe([("recipe demo", values), ("mine.yaml", {"length": {"images": 10}})])
    assert recipe.length.images == 10
    code, _, err = invoke("pretrain", "x", "length={steps: 1, epochs: 2}", "-r", "demo", "-o", "run")
    assert code == 2
    assert "exactly one" in err


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid_says_what_it_is_and_reads_back(name: str) -> None:
    values, _ = read_recipe(name)
    recipe, _ = resolve_recipe([(name, values)])
    assert recipe.name == name
    assert recipe.description
    assert validate(Recipe, recipe.model_dump(mode="json")) == recipe


def test_list_names_recipes_and_encoders() -> None:
    code, out, _ = invoke("list", "recipes", "--json")
    assert code == 0
    recipes = json.loads(out)["recipes"]
    assert {"demo", "chip-small", "ocean-small", "quicklook-small", "oceansar2", "sar-mae-small"} <= set(recipes)
    for name, about in recipes.items():  # what is told is what the file says
        values, _ = read_recipe(name)
        ((unit, amount),) = values["length"].items()
        assert about["length"] == f"{amount:g} {unit}"
        assert about["method"] == values["method"]["name"]
        assert about["description"] == values["description"]
        assert f"views of {values['view_size']} px" in about["input"]
        assert values.get("preprocessing", {}).get("quantity", "the archive's quantity") in about["input"]
        assert about["backbone"].startswith(values["backbone"]["name"])
    code, out, _ = invoke("list", "recipes")
    assert all(f"length: {about['length']}" in out for about in recipes.values())
    code, out, _ = invoke("list", "encoders")
    assert code == 0
    assert "statistics" in out
    assert "vit-s/16" in out


def test_settings_are_told_from_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert split_inputs(["archive", "seed=3", "a=b"]) == ([Path("archive"), Path("a=b")], ["seed=3"])
