"""`python -m model_store`: what it prints, how it fails, and what it writes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from store_factory import (
    SIZE,
    WEIGHTS,
    plain_fields,
    proven_version,
    publish_plain,
    publish_proven,
    snapshot,
)
from tiny_model import tiny_model_bytes

import model_store.__main__
from model_store.manifest import MANIFEST_NAME, Check, Variant
from model_store.provenance import DataSet, Metrics, Training
from model_store.store import ModelStore

REPOSITORY = Path(__file__).resolve().parents[2]

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def only_our_layers(builtin_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without a store, and the test's own built-in layer."""

    def make(root: Path, builtin_root: Path | None = builtin_root, **options: Any) -> ModelStore:
        return ModelStore(root, builtin_root, **options)

    monkeypatch.setattr(model_store.__main__, "open_store", make)
    monkeypatch.delenv("SERVICE_STORE", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(model_store.__main__.main, arguments)


@pytest.fixture
def run(root: Path) -> Command:
    """Run a command on the test's store."""
    return lambda *arguments: invoke("--store", str(root), *arguments)


def assert_error_line(result: Result, words: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def described(**changes: Any) -> dict[str, Any]:
    """Blocks for a manifest with training, metrics and gates."""
    data = DataSet(name="digits", digest="0" * 64)
    training = Training(
        run_id="run-1",
        command="python -m training.steps.train digits",
        git_commit=None,
        architecture="resnet20",
        recipe={},
        data=data,
        seed=0,
        epochs=30,
        best_epoch=27,
    )
    passed = Check(check="accuracy", passed=True, value=0.98, threshold=0.95, comparison="at_least")
    waived = Check(
        check="size",
        passed=False,
        value=9.5,
        threshold=8,
        comparison="at_most",
        waived="fits where it goes",
    )
    metrics = Metrics(top1=0.98765, test_images=540, top1_interval=(0.97, 0.995))
    return {"training": training, "metrics": metrics, "gate": (passed, waived)} | changes


class TestList:
    def test_models_of_both_layers_are_listed(self, run: Command, store: ModelStore) -> None:
        """Each version has a line with its layer, aliases and accuracy."""
        publish_plain(store, **described())
        publish_plain(store)
        store.promote("m", 1)
        store.promote("m", 1, "canary")
        lines = run("list").stdout.splitlines()
        assert lines[0].split()[:5] == ["MODEL", "VERSION", "LAYER", "ALIASES", "TOP-1"]
        assert [line.split()[:5] for line in lines[1:]] == [
            ["m", "1", "published", "canary,production", "98.77%"],
            ["m", "2", "published", "-", "-"],
            ["shipped", "1", "built-in", "-", "-"],
        ]

    def test_unproven_versions_are_marked(self, run: Command, store: ModelStore) -> None:
        """The last column is the proof."""
        publish_plain(store)
        publish_proven(store)
        lines = run("list", "m").stdout.splitlines()
        assert [line.split()[-1] for line in lines] == ["PROOF", "unproven", "proven"]

    def test_json_has_every_column(self, run: Command, store: ModelStore) -> None:
        """A script reads numbers and lists, not formatted text."""
        publish_plain(store, **described())
        store.promote("m", 1)
        rows = json.loads(run("list", "--json").stdout)
        with store.open("m", 1) as version:
            assert rows[0] == {
                "model": "m",
                "version": 1,
                "layer": "published",
                "aliases": ["production"],
                "top1": 0.98765,
                "created_at": version.manifest.created_at.isoformat(),
                "digest": version.digest,
                "proof": "unproven",
                "error": None,
            }
        assert [row["model"] for row in rows] == ["m", "shipped"]

    def test_one_model_is_listed_alone(self, run: Command, store: ModelStore) -> None:
        """Only the versions of that model."""
        publish_plain(store)
        assert [line.split()[0] for line in run("list", "m").stdout.splitlines()] == ["MODEL", "m"]

    def test_without_a_store_the_built_in_models_are_listed(self) -> None:
        """Nothing has to be published first."""
        result = invoke("list")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[1].split()[:3] == ["shipped", "1", "built-in"]

    def test_the_environment_names_the_store(
        self, root: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SERVICE_STORE is used without an option."""
        publish_plain(store, "from-the-environment")
        monkeypatch.setenv("SERVICE_STORE", str(root))
        assert "from-the-environment" in invoke("list").stdout

    def test_damage_of_one_version_hides_no_other(
        self, run: Command, store: ModelStore, root: Path
    ) -> None:
        """A damaged manifest and a damaged alias are named, and every version is listed."""
        for model in ("m", "m", "other", "third"):
            publish_plain(store, model)
        store.promote("third", 1)
        (root / "m" / "1" / MANIFEST_NAME).write_bytes(b"{")
        (root / "third" / "aliases" / "production" / "00000001.json").write_bytes(b"{")
        result = run("list")
        assert result.exit_code == 1
        rows = [line.split()[:2] for line in result.stdout.splitlines()[1:]]
        assert rows == [["m", "1"], ["m", "2"], ["other", "1"], ["shipped", "1"], ["third", "1"]]
        assert "m/1" in result.stderr
        assert "alias production" in result.stderr
        as_json = run("list", "--json")
        assert as_json.exit_code == 1
        errors = {
            (row["model"], row["version"]): row["error"] for row in json.loads(as_json.stdout)
        }
        assert [version for version, error in errors.items() if error] == [("m", 1), ("third", 1)]
        assert run("list", "other").exit_code == 0


class TestShow:
    def test_it_describes_the_version(self, run: Command, store: ModelStore) -> None:
        """Identity, input, classes, training, accuracy, and each gate with its waiver."""
        publish_plain(store, **described())
        result = run("show", "m", "1")
        with store.open("m", 1) as version:
            assert result.stdout.startswith(f"m/1 (published, unproven)  sha256:{version.digest}\n")
        for words in (
            "8x8 RGB, shorter_side to 8, bilinear",
            "3: red, green, blue",
            "fp32; batches up to 8",
            "resnet20 on digits, epoch 27 of 30",
            "python -m training.steps.train digits",
            "top-1 98.77% (95 % 97.00% to 99.50%) of 540 images",
            "at least 0.95",
            "WAIVED: fits where it goes",
        ):
            assert words in result.stdout

    def test_each_variant_has_its_file_tolerance_and_gates(
        self, run: Command, store: ModelStore
    ) -> None:
        """A waiver is shown beside the check that failed."""
        loss = Check(
            check="top1_loss",
            passed=False,
            value=0.7,
            threshold=0.5,
            comparison="at_most",
            waived="speed counts here",
        )
        int8 = Variant(precision="int8", file="labels/names.txt", tolerance=0.25, gate=(loss,))
        publish_plain(store, variants=(*plain_fields()["variants"], int8))
        lines = run("show", "m").stdout.splitlines()
        place = lines.index("  int8      labels/names.txt, 0.00 MB, golden logits within 0.25")
        assert lines[place + 1].split()[:2] == ["gate", "top1_loss"]
        assert lines[place + 1].endswith("WAIVED: speed counts here")

    def test_json_is_the_manifest(self, run: Command, store: ModelStore, root: Path) -> None:
        """Byte for byte."""
        publish_plain(store)
        assert (
            run("show", "m", "--json").stdout_bytes
            == (root / "m" / "1" / MANIFEST_NAME).read_bytes()
        )

    def test_an_alias_or_nothing_selects_a_version(self, run: Command, store: ModelStore) -> None:
        """Without an argument `production` counts, and without that the latest."""
        for _ in range(3):
            publish_plain(store)
        assert run("show", "m").stdout.startswith("m/3 ")
        store.promote("m", 2)
        store.promote("m", 1, "canary")
        assert run("show", "m").stdout.startswith("m/2 ")
        assert run("show", "m", "canary").stdout.startswith("m/1 ")


class TestVerify:
    def test_a_variant_for_gpus_is_not_run_without_one(
        self, run: Command, store: ModelStore
    ) -> None:
        """An fp16 variant is not a failure here, and the other variants are proven."""
        fields, files = proven_version()
        half = Variant(precision="fp16", file="model.fp16.onnx", tolerance=0.1)
        store.publish(
            "m",
            fields | {"variants": (*fields["variants"], half)},
            files | {half.file: b"for another machine"},
        )
        assert "fp32 proven, fp16 not run" in run("verify", "m").stdout

    def test_every_variant_is_proven(self, run: Command, store: ModelStore) -> None:
        """An INT8 file outside of its tolerance fails the version."""
        fields, files = proven_version()
        for number, weights in enumerate((WEIGHTS + 1e-5, WEIGHTS[::-1].copy()), start=1):
            int8 = Variant(precision="int8", file="model.int8.onnx", tolerance=0.1)
            data = tiny_model_bytes(SIZE, SIZE, weights.astype(np.float32))
            store.publish(
                "m", fields | {"variants": (*fields["variants"], int8)}, files | {int8.file: data}
            )
            result = run("verify", "m", str(number))
            assert (
                "fp32 proven, int8 proven" if number == 1 else "NumericsProofError"
            ) in result.output

    def test_a_whole_store_is_ok(self, run: Command, store: ModelStore) -> None:
        """Files are compared with the manifest and golden images are run."""
        publish_proven(store)
        publish_proven(store)
        result = run("verify", "m")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            f"ok      m/{number}  5 files, 2 golden images, fp32 proven" for number in (1, 2)
        ]

    def test_a_bad_version_is_named_among_good_ones(
        self, run: Command, store: ModelStore, root: Path
    ) -> None:
        """The exit code is 1, and the other versions are still checked."""
        for _ in range(5):
            publish_proven(store)
        (root / "m/2/model.onnx").write_bytes(b"")
        (root / "m/3" / MANIFEST_NAME).write_bytes(b"{")
        (root / "m/4/golden/upright.png").unlink()
        result = run("verify", "m")
        assert result.exit_code == 1
        verdicts = [line.split()[:2] for line in result.stdout.splitlines()]
        assert verdicts == [
            ["ok", "m/1"],
            ["FAILED", "m/2"],
            ["FAILED", "m/3"],
            ["FAILED", "m/4"],
            ["ok", "m/5"],
        ]
        assert "FileAlteredError: m/2: model.onnx" in result.stdout
        assert "FAILED  m/3  ManifestError: " in result.stdout
        assert "FileMissingError: m/4: golden/upright.png" in result.stdout

    def test_json_has_a_result_per_version(
        self, run: Command, store: ModelStore, root: Path
    ) -> None:
        """The exit code is the same as without it."""
        publish_proven(store)
        publish_proven(store)
        (root / "m/2/model.onnx").write_bytes(b"")
        result = run("verify", "m", "--json")
        good, bad = json.loads(result.stdout)
        assert result.exit_code == 1
        assert (good["version"], good["ok"], good["variants"]) == (1, True, {"fp32": "proven"})
        assert (bad["version"], bad["ok"], bad["error"]) == (2, False, "FileAlteredError")

    def test_a_failed_proof_is_a_bad_version(self, run: Command, store: ModelStore) -> None:
        """Intact files are not enough, unless the proof is not run."""
        publish_proven(store, weights=WEIGHTS * np.float32(2))
        failed = run("verify", "m", "1")
        assert failed.exit_code == 1
        assert "FAILED  m/1  NumericsProofError: golden/upright.png" in failed.stdout
        assert run("verify", "m", "1", "--no-run").exit_code == 0

    def test_a_file_that_is_no_model_is_a_bad_version(
        self, run: Command, store: ModelStore
    ) -> None:
        """It fails with the error of ONNX Runtime."""
        publish_plain(store)
        result = run("verify")
        assert result.exit_code == 1
        assert "FAILED  m/1  ModelRunError: " in result.stdout


class TestAliases:
    def test_an_alias_is_moved_and_moved_back(self, run: Command, store: ModelStore) -> None:
        """`aliases` shows every move with its reason, the newest first."""
        publish_plain(store)
        publish_plain(store)
        assert run("aliases", "m").stdout.startswith("m has no aliases")
        assert run("promote", "m", "1").stdout == "production of m now points to version 1\n"
        run("promote", "m", "2", "--why", "better on dusk")
        assert (
            run("rollback", "m", "--why", "worse at night").stdout
            == "production of m points to version 1 again\n"
        )
        lines = run("aliases", "m").stdout.splitlines()
        assert lines[0] == "production -> 1"
        assert ["worse at night" in lines[1], "better on dusk" in lines[2], len(lines)] == [
            True,
            True,
            4,
        ]

    def test_json_has_the_history(self, run: Command, store: ModelStore) -> None:
        """Oldest event first."""
        publish_plain(store)
        publish_plain(store)
        run("promote", "m", "1", "--why", "first")
        run("promote", "m", "2")
        production = json.loads(run("aliases", "m", "--json").stdout)["production"]
        assert production["version"] == 2
        assert [event["version"] for event in production["history"]] == [1, 2]
        assert production["history"][0]["why"] == "first"

    def test_an_alias_can_follow_another(self, run: Command, store: ModelStore) -> None:
        """The version to promote may be given as an alias."""
        publish_plain(store)
        publish_plain(store)
        run("promote", "m", "1", "--alias", "canary")
        assert run("promote", "m", "canary").exit_code == 0
        assert store.resolve("m", "production") == 1

    @pytest.mark.parametrize(
        "command",
        [("promote", "shipped", "1"), ("rollback", "shipped"), ("prune", "shipped", "--yes")],
    )
    @pytest.mark.parametrize("store_exists", [True, False])
    def test_the_built_in_layer_is_never_written(
        self,
        command: tuple[str, ...],
        store_exists: bool,
        run: Command,
        tmp_path: Path,
    ) -> None:
        """Moving or pruning a built-in model is rejected, with and without a store."""
        before = snapshot(tmp_path)
        assert_error_line((run if store_exists else invoke)(*command), "shipped")
        assert snapshot(tmp_path) == before


class TestPrune:
    def test_nothing_is_deleted_without_yes(
        self, run: Command, store: ModelStore, root: Path
    ) -> None:
        """The last line is the command that deletes."""
        for _ in range(4):
            publish_plain(store)
        store.promote("m", 1)
        (root / "m" / ".staging-dead").mkdir()
        *lines, last = run("prune", "m", "--keep", "2").stdout.splitlines()
        assert lines == [
            "keep    m/1  production points to it",
            "keep    m/3  among the latest 2",
            "keep    m/4  among the latest 2",
            "delete  m/2",
            "delete  m/.staging-dead  left by a killed process",
        ]
        assert last.endswith(f"prune m --keep 2 --store {root} --yes")
        assert store.versions("m") == [1, 2, 3, 4]
        assert "deleted m/2\n" in run("prune", "m", "--keep", "2", "--yes").stdout
        assert sorted(os.listdir(root / "m")) == ["1", "3", "4", "aliases"]

    def test_nothing_to_delete_needs_no_next_step(self, run: Command, store: ModelStore) -> None:
        """No command is suggested."""
        publish_plain(store)
        assert run("prune", "m").stdout == "keep    m/1  among the latest 3\n"

    def test_keeping_nothing_is_rejected(self, run: Command, store: ModelStore) -> None:
        """--keep 0 is a usage error."""
        publish_plain(store)
        assert run("prune", "m", "--keep", "0", "--yes").exit_code == 2
        assert store.versions("m") == [1]


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("list", "unknown"), "'unknown'"),
            (("show", "unknown"), "'unknown'"),
            (("show", "../m"), "model name"),
            (("show", "m", "9"), "version 9"),
            (("show", "m", "01"), "01"),
            (("show", "m", "beta"), "'beta'"),
            (("verify", "unknown"), "'unknown'"),
            (("verify", "m", "beta"), "'beta'"),
            (("promote", "m", "2"), "version 2"),
            (("promote", "m", "1", "--alias", ".."), "alias name"),
            (("rollback", "m"), "production"),
            (("aliases", "unknown"), "'unknown'"),
            (("prune", "unknown", "--yes"), "'unknown'"),
        ],
    )
    def test_an_error_is_one_line(
        self, arguments: tuple[str, ...], words: str, run: Command, store: ModelStore
    ) -> None:
        """One line on stderr, exit code 1, no traceback."""
        publish_plain(store)
        assert_error_line(run(*arguments), words)

    @pytest.mark.parametrize(
        "command", [("list",), ("verify",), ("show", "m"), ("prune", "m", "--yes")]
    )
    def test_a_missing_store_is_an_error(self, command: tuple[str, ...], tmp_path: Path) -> None:
        """A named store that does not exist is not an empty one."""
        assert_error_line(invoke(*command, "--store", str(tmp_path / "gone")), "does not exist")

    def test_a_damaged_alias_is_one_line(self, run: Command, store: ModelStore, root: Path) -> None:
        """In every command that reads it."""
        publish_plain(store)
        store.promote("m", 1)
        (root / "m/aliases/production/00000001.json").write_bytes(b"")
        for command in (("show", "m"), ("aliases", "m")):
            assert_error_line(run(*command), "event 1 of alias production")


@pytest.mark.parametrize("name", sorted(model_store.__main__.main.commands))
def test_every_command_has_an_example(name: str) -> None:
    """The help begins with one sentence and shows a command to paste."""
    output = invoke(name, "--help").stdout
    assert f"python -m model_store {name}" in output
    assert "--store" in output


class TestProgram:
    """The real program in its own process."""

    def program(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "model_store", *arguments]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    def test_it_verifies_a_store(self, store: ModelStore, root: Path) -> None:
        """The exit code is 0."""
        publish_proven(store)
        done = self.program("--store", str(root), "verify", "m")
        assert (done.returncode, done.stdout, done.stderr) == (
            0,
            "ok      m/1  5 files, 2 golden images, fp32 proven\n",
            "",
        )

    def test_it_fails_in_one_line(self, tmp_path: Path) -> None:
        """The exit code is 1."""
        done = self.program("--store", str(tmp_path / "gone"), "list")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1

    def test_its_json_is_json(self, store: ModelStore, root: Path) -> None:
        """It can be piped into another program."""
        publish_plain(store)
        assert (
            json.loads(self.program("--store", str(root), "show", "m", "--json").stdout)["model"]
            == "m"
        )
