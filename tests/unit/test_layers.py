"""The layers of a study: what the user says last and nearest takes effect, or is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from harness.cli.options import StudyOptions
from harness.cli.resolve import keys_set, resolve_study
from harness.config.study import StudyConfig, load_study
from harness.console import Console
from harness.errors import UserError
from harness.study.effective import effective_settings, print_settings

BOTH = """
extends = "tiny"
methods = ["sft", "grpo"]
[train]
learning_rate = 3e-3
[method.grpo.train]
learning_rate = 4e-3
"""


def rates(study: StudyConfig) -> dict[str, float]:
    return {method: study.for_method(method).train.learning_rate for method in study.methods}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def file(text: str, name: str = "study.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return file


# ------------------------------------------------------------------ which value takes effect


def test_a_setting_of_all_methods_replaces_what_a_lower_layer_sets_for_some(write: Any) -> None:
    assert rates(load_study("tiny")) == {"sft": 8.2e-5, "dpo": 1.2e-5, "grpo": 8.2e-5}
    assert set(rates(load_study("tiny", overrides=["train.learning_rate=2e-3"])).values()) == {2e-3}
    assert set(rates(load_study(write('extends = "tiny"\n[train]\nlearning_rate = 3e-3'))).values()) == {3e-3}
    assert load_study("tiny", overrides=["train.learning_rate=2e-3"]).algorithm("grpo").config.group_size == 8


@pytest.mark.parametrize("order", [1, -1])
def test_in_one_layer_a_methods_own_setting_is_nearer(write: Any, order: int) -> None:
    assert rates(load_study(write(BOTH))) == {"sft": 3e-3, "grpo": 4e-3}
    given = ["train.learning_rate=5e-3", "grpo.train.learning_rate=6e-3"][::order]
    assert rates(load_study(write(BOTH), overrides=given)) == {"sft": 5e-3, "grpo": 6e-3}
    assert rates(load_study(write(BOTH), overrides=["grpo.train.learning_rate=6e-3"]))["grpo"] == 6e-3


def test_each_file_is_a_layer(write: Any) -> None:
    write(BOTH)
    top = write('extends = "study.toml"\n[train]\nlearning_rate = 7e-3', "top.toml")
    assert rates(load_study(top)) == {"sft": 7e-3, "grpo": 7e-3}
    top = write('extends = "study.toml"\n[method.sft.train]\nlearning_rate = 7e-3', "top.toml")
    assert rates(load_study(top)) == {"sft": 7e-3, "grpo": 4e-3}


def test_a_variant_is_nearest_and_a_guest_inherits() -> None:
    methods = ["grpo", "grpo:train.learning_rate=1e-6", "trl-grpo"]
    study = load_study("tiny", methods=methods)
    assert list(rates(study).values()) == [8.2e-5, 1e-6, 8.2e-5]
    study = load_study("tiny", methods=methods, overrides=["train.learning_rate=2e-3"])
    assert list(rates(study).values()) == [2e-3, 1e-6, 2e-3]
    study = load_study("tiny", methods=methods, overrides=["grpo.beta=0.5", "trl-grpo.train.warmup_steps=9"])
    assert [study.algorithm(method).config.beta for method in methods] == [0.5, 0.5, 0.5]
    assert [study.for_method(method).train.warmup_steps for method in methods] == [5, 5, 9]


def test_a_section_given_as_a_table_changes_only_what_it_names() -> None:
    study, tiny = load_study("tiny", overrides=["data={frames=8}"]), load_study("tiny")
    assert study.data == tiny.data.model_copy(update={"frames": 8})
    assert load_study("tiny", overrides=["reward.weights={mra=1.0}"]).reward.weights == {"mra": 1.0}


def test_bounds_and_splits_of_a_lower_layer_give_way(write: Any) -> None:
    named = write('extends = "tiny"\n[data]\npixels = "lmms-eval"')
    assert (load_study(named).data.min_pixels, load_study(named).data.max_pixels) == (3136, 602112)
    study = load_study(named, overrides=["data.min_pixels=4000"])
    assert (study.data.min_pixels, study.data.max_pixels) == (4000, 602112)
    assert load_study("paper-2b").data.split == "full"
    assert load_study("paper-2b", changes={"data.benchmark": "world:test"}).data.split is None


# ------------------------------------------------------------------ what cannot take effect


@pytest.mark.parametrize(
    ("methods", "override", "words"),
    [
        (["sft"], "grpo.beta=0", "grpo is not among the study's methods: sft"),
        (["sft"], "method.grpo.train.warmup_steps=1", "grpo is not among"),
        (["grpo:beta=0"], "grpo.beta=1", "no effect, because of grpo:beta=0"),
        (["grpo:train.warmup_steps=1"], "train.warmup_steps=2", "because of grpo:train.warmup_steps=1"),
        (["trl-sft"], "sft.beta=1", "trl-sft, which has no such setting"),
        (None, "model.lora_rank=8", "model.tuning = full"),
        (None, "data={pixels='qwen2-vl', min_pixels=8}", "sets min_pixels and max_pixels"),
        (None, "data.split=full", "names its split itself"),
    ],
)
def test_a_setting_in_vain_is_refused(methods: list[str] | None, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        load_study("tiny", methods=methods, overrides=[override])
    assert override.split("=")[0].split(".")[0] in str(error.value)


def test_a_setting_of_undecodable_bytes_is_refused() -> None:
    assert load_study("tiny", overrides=["name=zimmer"]).name == "zimmer"
    with pytest.raises(UserError, match="not UTF-8"):
        load_study("tiny", overrides=["name=\udcff"])
    for methods in (["grpo:\udcff"], ["sft", "grpo:beta=\udcff"], ["\udcff:"]):
        with pytest.raises(UserError, match="not UTF-8"):
            load_study("tiny", methods=methods)
    with pytest.raises(UserError, match=r"`--data \udcff`: it holds bytes that are not UTF-8"):
        load_study("tiny", changes={"data.train": "\udcff"}, asked={"data.train": "--data \udcff"})


def test_all_methods_having_their_own_is_named() -> None:
    given = [f"{method}.train.learning_rate=1e-3" for method in ("sft", "dpo", "grpo")]
    with pytest.raises(UserError, match=r"-s train\.learning_rate=2.*method\.sft\.train\.learning_rate"):
        load_study("tiny", overrides=[*given, "train.learning_rate=2"])


def test_a_file_that_says_something_in_vain(write: Any) -> None:
    in_vain = BOTH + "[method.sft.train]\nlearning_rate = 1e-3\n"
    with pytest.raises(UserError, match=r"study\.toml\.train\.learning_rate.*method\.grpo\.train\.learning_rate"):
        load_study(write(in_vain))
    with pytest.raises(UserError, match=r"study\.toml\.method\.dpo\.beta`: dpo is not among"):
        load_study(write(BOTH + "[method.dpo]\nbeta = 0.2\n"))
    # What the command line changes is no mistake of the file.
    assert rates(load_study(write(in_vain), methods=["dpo"])) == {"dpo": 3e-3}
    assert rates(load_study(write(BOTH), overrides=["sft.train.learning_rate=1"])) == {"sft": 1, "grpo": 4e-3}


def test_a_study_that_says_everything_may_set_what_its_methods_override(write: Any) -> None:
    """A copy of a preset, ``study.toml`` of a run and the file of ``tune`` are complete documents."""
    from harness.io import toml_text

    whole = write(toml_text(load_study("tiny").model_dump(mode="json")))
    assert load_study(whole) == load_study("tiny")
    assert rates(load_study(write(f'extends = "{whole.name}"\n[train]\nlearning_rate = 1e-3', "mine.toml"))) == {
        "sft": 1e-3,
        "dpo": 1e-3,
        "grpo": 1e-3,
    }


# ------------------------------------------------------------------ another model


@pytest.mark.parametrize("options", [{"model": "2b"}, {"settings": ["model.name=2b"]}])
def test_a_question_on_another_model_has_that_models_settings(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    study, large = resolve_study(StudyOptions(study="kl-ablation", **options)), load_study("2b")
    assert (study.model, study.prompt, study.rollout, study.train) == (
        large.model,
        large.prompt,
        large.rollout,
        large.train,
    )
    assert study.data == large.data.model_copy(update={"benchmark_limit": 400})
    assert study.algorithm("grpo").config == large.algorithm("grpo").config
    assert (study.name, len(study.methods), study.budget.amount) == ("kl-ablation-2b", 3, 960)
    told = " ".join(capsys.readouterr().err.split())
    assert "data.benchmark_limit = 400, budget.amount = 960" in told
    assert resolve_study(StudyOptions(study="kl-ablation", model="tiny")) == load_study("kl-ablation")


@pytest.mark.parametrize(("study", "model"), [("tiny", "2b"), ("paper-2b", "7b"), ("2b", "tiny")])
def test_a_whole_study_is_refused_for_another_model(study: str, model: str) -> None:
    with pytest.raises(UserError, match=rf"`model\.name` = {model}.*would keep .*train\.learning_rate = "):
        load_study(study, changes={"model.name": model})


def test_a_file_for_another_model_than_it_extends_is_refused(write: Any) -> None:
    with pytest.raises(UserError, match=r'would keep.*extends = "2b"'):
        load_study(write('extends = "tiny"\n[model]\nname = "2b"'))
    assert load_study(write('extends = "kl-ablation"\n[model]\nname = "2b"')).model == load_study("2b").model


def test_what_a_folder_of_weights_keeps_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    study = resolve_study(StudyOptions(study="tiny", model=str(tmp_path / "weights")))
    assert study.data == load_study("tiny").data
    assert "model.tuning = full, model.precision = fp32, data.train = world:train" in " ".join(
        capsys.readouterr().err.split()
    )


def test_what_a_file_for_a_folder_of_weights_keeps_of_a_preset_is_listed(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not what the file says itself."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    study = f'name = "a"\n[model]\nname = "{tmp_path / "weights"}"\n[data]\ntrain = "world:dev"'
    resolve_study(StudyOptions(study=str(write(f'extends = "tiny"\n{study}'))))
    told = " ".join(capsys.readouterr().err.split())
    assert "keeps model.tuning = full" in told and "data.benchmark = world:test" in told
    assert "data.train" not in told
    resolve_study(StudyOptions(study=str(write(f'extends = "2b"\n{study}'))))
    resolve_study(StudyOptions(study="kl-ablation"))
    assert capsys.readouterr().err == ""


def test_pairs_of_a_study_give_way_to_methods_and_pairs_that_are_asked_for_do_not() -> None:
    assert load_study("kl-ablation", methods=["sft", "grpo"]).report.pairs is None
    for setting in ('report.pairs=[["sft", "dpo"]]', 'report={pairs=[["sft", "dpo"]]}'):
        with pytest.raises(UserError, match=r"report\.pairs: dpo.*Known: base, sft"):
            load_study("tiny", methods=["sft"], overrides=[setting])


# ------------------------------------------------------------------ files


def test_a_file_that_extends_itself(write: Any) -> None:
    with pytest.raises(UserError, match="extends itself"):
        load_study(write('extends = "study.toml"'))
    write('extends = "b.toml"', "a.toml")
    with pytest.raises(UserError, match=r"b\.toml extends .*a\.toml extends .*b\.toml"):
        load_study(write('extends = "a.toml"', "b.toml"))
    assert load_study(write('extends = "tiny"\nseeds = 2', "tiny.toml")).seeds == 2


def test_a_chain_of_files_and_a_number_without_end_are_refused(write: Any) -> None:
    for number in range(1, 1000):
        path = write(f'extends = "chain{number + 1}.toml"', f"chain{number}.toml")
    with pytest.raises(UserError, match=r"chain51\.toml`: 50 files extend one another"):
        load_study(path.with_name("chain1.toml"))
    with pytest.raises(UserError, match=r"not valid TOML: .*digits"):
        load_study(write(f"[data]\nframes = {'9' * 100_000}"))
    with pytest.raises(UserError, match=r"data\.frames"):
        load_study("tiny", overrides=[f"data.frames={'9' * 5000}"])


def test_a_preset_and_a_file_of_one_name(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write('extends = "2b"\nseeds = 2', "tiny")
    for source in ("tiny", write('extends = "tiny"')):
        with pytest.raises(UserError, match=r"a preset and a file.*\./tiny"):
            load_study(source)
    assert load_study("./tiny").seeds == load_study(write('extends = "./tiny"')).seeds == 2


# ------------------------------------------------------------------ what is shown


def test_the_effective_values_are_shown(write: Any) -> None:
    options = StudyOptions(
        study=str(write(BOTH)), methods="sft,grpo,grpo:beta=0.5", settings=["grpo.beta=0.1"], limit=40
    )
    study = resolve_study(options)
    assert effective_settings(study, keys_set(options)) == {
        "train.learning_rate": "0.003 (sft), 0.004 (grpo, grpo:beta=0.5)",
        "data.benchmark_limit": "40",
        "grpo.beta": "0.1 (grpo), 0.5 (grpo:beta=0.5)",
    }
    out = io.StringIO()
    print_settings(study, keys_set(options), Console(file=out, width=120))
    assert "0.003 (sft), 0.004 (grpo, grpo:beta=0.5)" in out.getvalue()


def test_a_setting_of_sampling_says_when_nothing_samples() -> None:
    sampled, keys = "rollout.temperature", ("rollout.temperature",)
    assert "no method here samples" in effective_settings(load_study("tiny", methods=["sft"]), keys)[sampled]
    assert effective_settings(load_study("tiny", methods=["sft", "grpo"]), keys)[sampled] == "1.0"
