"""The command line: every mistake ends with a message, exit code 2 and no traceback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import Cli, mistake
from conftest import write_small_dataset
from engine_kit import write_family
from safetensors.torch import load_file, save_file

from harness.plugins import registry

COMMANDS = ["compare", "train", "evaluate", "score", "report", "list", "check", "doctor", "world"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--methods", "sft,gpro"], ["--methods gpro", "did you mean grpo?"]),
        (["compare", "--methods", "sft,,dpo"], ["--methods sft,,dpo", "separated by commas"]),
        (["train", "sft,grpo"], ["train sft,grpo", "name one method"]),
        (["compare", "--methods", "sft,sft"], ["sft is named twice"]),
        (["compare", "--methods", "base"], ["--methods base", "leave it out"]),
        (["compare", "--model", "tinny"], ["--model tinny", "did you mean tiny?"]),
        (["compare", "--model", "paper-2b"], ["--model paper-2b", "write --study paper-2b"]),
        (["compare", "--engine", "fast"], ["--engine fast", "'naive'"]),
        (["compare", "-s", "model.name=tinny"], ["tinny", "did you mean tiny?"]),
        (["compare", "--model", "./nothing/here"], ["./nothing/here"]),
        (
            ["compare", "--model", "tiny", "-s", "prompt.train=thinks"],
            ["prompt.train", "did you mean think?"],
        ),
        (["compare", "--model", "tiny", "-s", "prompt.train=cot"], ["prompt.train", "official, think, vanilla"]),
        (["compare", "--model", "tiny", "-s", "prompt.evaluation=oficial"], ["did you mean official?", "cot"]),
        (["compare", "-s", "tain.warmup_steps=3"], ["-s tain.warmup_steps", "did you mean train?"]),
        (["compare", "-s", "train.warmup_step=3"], ["train.warmup_step", "did you mean warmup_steps?"]),
        (["compare", "-s", "grpo.betta=0.1"], ["betta", "did you mean beta?"]),
        (["compare", "-s", "grpo.beta=hot"], ["beta", "hot"]),
        (["compare", "-s", "train.learning_rate=-1"], ["train.learning_rate", "-1"]),
        (["compare", "-s", "budget.kind=epochs"], ["budget.kind", "epochs", "'examples'"]),
        (["compare", "-s", "seeds"], ["-s seeds", "key=value"]),
        (["compare", "-s", "reward.weights.mrra=1"], ["reward.weights.mrra", "did you mean mra?"]),
        (["compare", "-s", "evaluation.benchmark=vsi"], ["vsi", "vsibench"]),
        (["compare", "--seeds", "0"], ["--seeds 0", "from 1 to"]),
        (["compare", "--workers", "none"], ["--workers", "integer"]),
        (["compare", "--methds", "sft"], ["--methds", "--methods"]),
        (["compare", "--study", "nothing.toml"], ["nothing.toml", "no such study file", "tiny"]),
        (["compare", "--benchmark-data", "world:tst"], ["world:tst", "did you mean test?"]),
        (["compare", "--benchmark-data", "no/such/folder"], ["no/such/folder", "no such folder or file"]),
        (["train", "gpro"], ["train gpro", "did you mean grpo?"]),
        (["train"], ["METHOD"]),
        (["evaluate", "nothing"], ["CHECKPOINT", "'nothing' does not exist"]),
        (["evaluate", ".", "--study", "tiny", "-s", "train.warmup_steps=3"], ["train.warmup_steps=3", "no effect"]),
        (["score", "none.jsonl", "--benchmark", "world:test"], ["ANSWERS.jsonl", "'none.jsonl' does not exist"]),
        (["score", "."], ["ANSWERS.jsonl", "is a directory"]),
        (["report", "runs/none"], ["RUN_DIR", "'runs/none' does not exist"]),
        (["report", "."], ["not a run directory"]),
        (["check", "gpro"], ["check gpro", "did you mean grpo?"]),
        (["world", "rendr"], ["rendr"]),
        (["compar"], ["compar"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in [*COMMANDS, "compar"] else "",
)
def test_mistakes(harness: Cli, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    mistake(harness(*arguments), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--engine fast", "`--engine fast`: Input should be 'shared' or 'naive'"),
        ("-s model.engine=fast", "`-s model.engine=fast`: Input should be"),
        ("-s train.lr=1", "`-s train.lr=1`: no such key. Known: adam_beta1"),
        ("-s prompt.train=thinks", "`-s prompt.train=thinks`: no such name; did you mean think? Known:"),
        ("-s data.pixels=qwen", "`-s data.pixels=qwen`: no such name; did you mean qwen2-vl? Known:"),
        ("-s model.tuning=full -s model.quantisation=4bit", "`tiny.toml.model`: quantisation needs tuning"),
        ("--benchmark-data DATA --split dev", "no split `dev` (given by --split, data.split or #SPLIT). Known: test"),
        ("--benchmark-data world:test --split dev", "the benchmark `world:test` names its split itself"),
        ("-s rollout.sampler_options.k=1", "`rollout.sampler_options.k`: no such key"),
        ("--benchmark-data . --split dev", "the folder contains no data set"),
    ],
)
def test_a_wrong_value_is_reported_under_what_was_typed(
    harness: Cli, train_and_test: list[str], options: str, message: str
) -> None:
    options = options.replace("DATA", train_and_test[-1].partition("#")[0])
    ended = harness("compare", "--dry-run", *train_and_test[:2], *options.split())
    assert ended.code == 2 and ended.err.replace("\n", " ").startswith("error: "), ended
    assert message in ended.err and "Value error" not in ended.err


def test_a_dry_run_checks_rooms_before_the_benchmark_is_generated(
    harness: Cli, tmp_path: Path, train_and_test: list[str]
) -> None:
    mine = shutil.copytree(train_and_test[1].removesuffix("#train"), tmp_path / "mine")
    (mine / "world").rename(mine / "rooms")
    (mine / "rooms" / "train_000000.mp4").rename(mine / "rooms" / "scene0025_01.mp4")
    lines = (mine / "train.jsonl").read_text().replace('"world"', '"rooms"').replace("train_000000", "scene0025_01")
    (mine / "train.jsonl").write_text(lines)
    options = ["--methods", "sft", "--benchmark-data", "world:test@2"]
    mistake(harness("compare", "--dry-run", *options, "--data", "mine"), "scannet/scene0025 (3)", "--drop-leaking")
    mistake(harness("compare", "--dry-run", *options, "--data", "world:test_free@4"), "`data.train`", "world:train")
    assert harness("compare", "--dry-run", *options, "--data", "world:train@4").code == 0


def test_a_key_of_the_file_is_named_once(harness: Cli, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('extends = "tiny"\n[prompt]\ntrain = "thinks"')
    ended = harness("compare", "--study", "study.toml", "--dry-run")
    assert "error: `study.toml.prompt.train` = 'thinks': no such name; did you mean think?" in ended.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'name = "x"\n[train\n', ["study.toml", "not valid TOML", "line 2"]),
        (b"\xff\xfe\x00", ["study.toml", "save the file as UTF-8"]),
        (b'extends = "tinny"', ["tinny", "no such study file"]),
        (b'name = "x"\n', ["study.toml.budget"]),
        (b'extends = "tiny"\nmethods = ["sft", "gpro"]', ["methods: gpro", "did you mean grpo?"]),
        (b'extends = "tiny"\nmethods = ["sft", "sft"]', ["study.toml.methods", "sft is named twice"]),
        (b'extends = "tiny"\nmethods = []', ["study.toml.methods", "name at least one method"]),
        (b'extends = "tiny"\n[tarin]\nwarmup_steps = 1', ["tarin", "did you mean train?"]),
        (b'extends = "tiny"\n[method.gpro]\nbeta = 1', ["method.gpro", "did you mean grpo?"]),
    ],
)
def test_study_files(harness: Cli, tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "study.toml").write_bytes(content)
    mistake(harness("compare", "--study", "study.toml", "--dry-run"), *words)


def test_a_folder_as_study_file_and_a_file_as_run_directory(
    harness: Cli, tmp_path: Path, train_and_test: list[str]
) -> None:
    (tmp_path / "folder.toml").mkdir()
    mistake(harness("compare", "--study", "folder.toml"), "folder.toml", "cannot be read")
    (tmp_path / "taken").touch()
    mistake(harness("compare", "--out", "taken"), "--out", "'taken' is a file")
    (tmp_path / "runs").touch()
    mistake(harness("train", "sft", *train_and_test), "runs")


def test_a_checkpoint_of_no_run_needs_a_study(harness: Cli, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    mistake(harness("evaluate", "model"), "--study")


def test_training_on_the_benchmark_is_refused(harness: Cli, train_and_test: list[str]) -> None:
    benchmark = train_and_test[-1]
    mistake(harness("compare", "--data", benchmark, "--benchmark-data", benchmark), "rooms of the benchmark")


def test_a_record_that_is_bad_is_named_with_its_line(harness: Cli, tmp_path: Path, train_and_test: list[str]) -> None:
    root = write_small_dataset(tmp_path / "bad", scenes=1)
    with (root / "test.jsonl").open("a") as file:
        file.write('{"id": 99, torn\n')
    options = [*train_and_test[:2], "--benchmark-data", str(root)]
    mistake(harness("compare", *options), "test.jsonl, line 4")
    (root / "world" / "test_000000.mp4").unlink()
    mistake(harness("compare", *options), "test_000000.mp4")


def test_a_full_disk_is_a_message(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr(registry, "listing", full)
    mistake(harness("list"), "No space left on device: runs/x")


def test_ctrl_c_exits_130(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "listing", interrupt)
    assert harness("list").code == 130


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(harness: Cli, command: str) -> None:
    ended = harness(command, "--help")
    assert ended.code == 0
    assert f"harness {command}" in ended.out
    assert all(len(line) <= 100 for line in ended.out.splitlines())


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['harness', '--help']\n"
        "import harness.cli.app\n"
        "try: harness.cli.app.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'pydantic', 'numpy'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compare" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_module_and_version() -> None:
    command = [sys.executable, "-m", "harness", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "0.1.0"


def test_list_shows_a_broken_plugin_and_the_others(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entries = registry._entries
    broken = EntryPoint("mine", "no_such_module:Mine", "harness.algorithms")
    monkeypatch.setattr(registry, "_entries", lambda g: entries(g) | ({"mine": broken} if g == "algorithms" else {}))
    ended = harness("list")
    assert ended.code == 0
    assert "ModuleNotFoundError" in ended.out and "grpo" in ended.out and "Traceback" not in ended.out


def test_doctor_never_raises(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        raise RuntimeError("no such thing as memory")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("psutil.virtual_memory", explode)
    ended = harness("doctor")
    assert ended.code == 1
    assert "no such thing as memory" in ended.out and "offline mode is on" in ended.out
    assert "world:test" in ended.out


def test_a_model_that_is_not_whole_is_refused_before_anything_is_computed(
    harness: Cli, tmp_path: Path, train_and_test: list[str]
) -> None:
    """By doctor, the dry run, compare and evaluate alike, with the tensor's name; no folder is written."""
    folder = write_family("qwen2_vl", tmp_path / "model")
    weights = folder / "model.safetensors"
    save_file(dict(list(load_file(weights).items())[1:]), weights, {"format": "pt"})
    before, words = set(tmp_path.iterdir()), "1 missing: "
    study = ["--model", "model", *train_and_test, "--methods", "sft"]
    for arguments in (["compare", "--dry-run", *study], ["compare", *study], ["train", "sft", *study[:-2]]):
        mistake(harness(*arguments), words)
    test = ["--study", "tiny", *train_and_test[2:], "--out", "answers"]
    mistake(harness("evaluate", "model", *test), words)
    ended = harness("doctor", *study)
    assert ended.code == 1 and "1 missing:" in " ".join(ended.out.split())
    assert set(tmp_path.iterdir()) == before


def test_doctor_refuses_an_unknown_model(harness: Cli) -> None:
    mistake(harness("doctor", "--model", "tinny"), "--model tinny", "did you mean tiny?")


def test_score_prints_json_alone(harness: Cli, tmp_path: Path, train_and_test: list[str]) -> None:
    benchmark = train_and_test[-1]
    answers = [{"id": 0, "answer": "4"}, {"id": 1, "answer": "B."}, {"id": 2, "answer": "nonsense"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    ended = harness("score", "answers.jsonl", "--benchmark", benchmark, "--scorer", "official", "--json")
    assert ended.code == 0, ended
    found = json.loads(ended.out)
    assert list(found) == ["official"]
    assert found["official"]["overall"] == pytest.approx(200 / 3)
    assert found["official"]["n"] == 3
    assert "66.67" in harness("score", "answers.jsonl", "--benchmark", benchmark).out
    mistake(harness("score", "answers.jsonl"), "`--benchmark`: name the records that were answered")
    mistake(
        harness("score", "answers.jsonl", "--benchmark", benchmark, "--scorer", "offical"), "did you mean official?"
    )
