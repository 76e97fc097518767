"""The study: all settings of a comparison, validated, in one document."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from harness.api.benchmark import Benchmark
from harness.api.config import StrictConfig
from harness.config.evaluation import DEVELOPMENT, EvaluationSection
from harness.config.layers import (
    Layers,
    Said,
    leaves,
    model_named,
    parse_setting,
    read_layers,
    refuse_other_model,
    refuse_twice,
    refuse_undecodable,
    with_command_line,
)
from harness.config.looks import parse_looks
from harness.config.sections import (
    BudgetSection,
    DataSection,
    ModelSection,
    PromptSection,
    ReportSection,
    RewardSection,
    RolloutSection,
    RuntimeSection,
    TrainSection,
    TuneSection,
)
from harness.config.variants import BASE, SECTIONS, get, in_words, merge, parse_methods, parse_variant, put
from harness.errors import UserError, unknown_name
from harness.io import digest_of
from harness.plugins import registry
from harness.vsibench.prompts import MODES


class StudyConfig(StrictConfig):
    """A study: methods x seeds on one model, one data set and one budget."""

    name: str = Field(max_length=80, pattern=r"^\w[\w.+-]*$", description="Name of the run directory.")
    methods: tuple[str, ...] = Field(
        ("sft", "dpo", "grpo"),
        description="Registered methods in table order, or variants of them such as grpo:beta=0 and grpo:think.",
    )
    seeds: int | tuple[int, ...] = Field(
        1,
        description="Repetitions; each has its own data order and random numbers, the same for every method. Several "
        "numbers, such as [3, 5, 8], are looks: the study stops at the first at which every pair is decided.",
    )
    first_seed: int = Field(0, ge=0, lt=2**31, description="Seeds are first_seed, first_seed + 1, ...")
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    prompt: PromptSection = PromptSection()
    reward: RewardSection = RewardSection()
    rollout: RolloutSection = RolloutSection()
    budget: BudgetSection
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    runtime: RuntimeSection = RuntimeSection()
    report: ReportSection = ReportSection()
    tune: TuneSection = TuneSection()
    method: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Hyper-parameters by method; its sub-tables `train`, `prompt`, `rollout`, `reward` and "
        "`evaluation` (only max_new_tokens and two_turns) override those sections for it.",
    )

    @field_validator("methods")
    @classmethod
    def _methods_once(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        return parse_methods(methods)

    @field_validator("seeds", mode="before")
    @classmethod
    def _rising_looks(cls, seeds: Any) -> Any:
        return parse_looks(seeds)

    @property
    def looks(self) -> tuple[int, ...]:
        """Seeds per method at which results are looked at, rising; a single number without declared looks."""
        return (self.seeds,) if isinstance(self.seeds, int) else self.seeds

    @property
    def runs(self) -> int:
        """Training runs of every method, at the last look."""
        return self.looks[-1]

    def algorithm(self, method: str, *, asked: str | None = None) -> Any:
        """The method, or variant of one, with its hyper-parameters.

        Raises:
            UserError: It is unknown, cannot be imported, or an option is unknown or out of range.
        """
        return registry.create("algorithms", parse_variant(method).method, self.hyper_parameters(method), asked=asked)

    def hyper_parameters(self, method: str) -> dict[str, Any]:
        """The options of a method's own ``Config``, including a variant's changes."""
        return {key: value for key, value in self._settings(method).items() if key not in SECTIONS}

    def for_method(self, method: str) -> StudyConfig:
        """This study as one method or variant sees it: the sections of :data:`SECTIONS` with its overrides.

        Where a variant changes the prompts and is evaluated in a mode that reasons, its answers may be at least as
        long as in training, unless it sets their limit.

        Raises:
            UserError: An override's key or value is wrong.
        """
        own = self.model_copy(update={name: self._section_for(method, name) for name in SECTIONS})
        own_limit = "max_new_tokens" in self._settings(method).get("evaluation", {})
        if not MODES[own.prompt.evaluation].reasons or own.prompt == self.prompt or own_limit:
            return own
        longest = max(own.evaluation.max_new_tokens, own.rollout.max_new_tokens)
        return own.model_copy(update={"evaluation": own.evaluation.model_copy(update={"max_new_tokens": longest})})

    def checkpoints_of(self, method: str) -> int:
        """The number of checkpoints that a run of a method leaves; one step leaves no more than one."""
        train, budget = self.for_method(method).train, self.budget
        if budget.kind == "seconds":  # as many steps as fit
            return train.checkpoints
        each = train.prompts_per_step if budget.kind == "examples" else 1
        return min(train.checkpoints, math.ceil(budget.amount / each))

    def label(self, method: str) -> str:
        """What tables call a method: its title, followed by a variant's changes in parentheses."""
        variant = parse_variant(method)
        known = variant.method in registry.names("algorithms")
        title = vars(registry.load("algorithms", variant.method)).get("title") if known else None
        changes = f" ({', '.join(map(in_words, variant.changes))})" if variant.changes else ""
        return f"{title or variant.method}{changes}"

    def tables_of(self, method: str) -> dict[str, Mapping[str, Any]]:
        """The tables that give a method its own settings, by name, the nearest last.

        They are those of its counterpart, if it is a guest; its own; and a variant's changes, under the variant's name.
        """
        variant, tables = parse_variant(method), dict[str, Mapping[str, Any]]()
        if variant.method in registry.names("algorithms"):
            plugin = registry.load("algorithms", variant.method)
            # A guest inherits those settings of its counterpart that it knows.
            if counterpart := getattr(plugin, "counterpart", ""):
                known = {*SECTIONS, *getattr(plugin, "Config", StrictConfig).model_fields}
                shared = self.method.get(counterpart, {})
                tables[counterpart] = {key: value for key, value in shared.items() if key in known}
        tables[variant.method] = self.method.get(variant.method, {})
        return tables | ({variant.name: variant.settings} if variant.changes else {})

    def nearer(self, method: str, key: str) -> str:
        """What a method uses instead of a setting of the study (``train.learning_rate``, ``method.grpo.beta``), if any.

        Returns:
            The key of the setting that is nearer to the method, or the variant; "" where the setting takes effect.
        """
        tables, parts = self.tables_of(method), key.split(".")
        names, table = list(tables), parts[1] if parts[0] == "method" else ""
        if table:
            names, parts = names[names.index(table) + 1 :], parts[2:]
        unit = ".".join(parts[: 2 if parts[0] in SECTIONS else 1])
        if table not in ("", parse_variant(method).method) and get(tables[table], unit) is None:
            return f"{method}, which has no such setting"
        holders = [name for name in names if get(tables[name], unit) is not None]
        return "" if not holders else holders[-1] if ":" in holders[-1] else f"method.{holders[-1]}.{unit}"

    def _settings(self, method: str) -> dict[str, Any]:
        """A method's table, with a variant's changes."""
        settings: dict[str, Any] = {}
        for table in self.tables_of(method).values():
            settings = merge(settings, table)
        return settings

    def _section_for(self, method: str, name: str) -> StrictConfig:
        shared: StrictConfig = getattr(self, name)
        changes, variant = self._settings(method).get(name, {}), parse_variant(method)
        where = f"{variant.name}.{name}" if variant.changes else f"method.{method}.{name}"
        if not isinstance(changes, dict):
            raise UserError(f"`{where}` = {changes!r}: set one of its keys, as {name}.KEY=VALUE")
        allowed = SECTIONS[name]
        for key in changes:
            if allowed is not None and key not in allowed:
                raise UserError(
                    f"`{where}.{key}`: in this section a method may change only {', '.join(allowed)}; the other keys "
                    "are the same for all"
                )
        try:
            return type(shared)(**shared.model_dump() | changes)
        except ValidationError as error:
            raise UserError(registry.describe_validation(error, where, type(shared))) from error


def load_study(
    source: str | Path | StudyConfig,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
    asked: Mapping[str, str] | None = None,
    run_plugins: bool = True,
) -> StudyConfig:
    """Read a study file or preset, apply overrides and validate.

    Methods, changes and overrides are one layer: what they say for all methods replaces what the file says for single
    ones, and among themselves a method's own setting is nearer.

    Args:
        source: A preset's name or a path to a TOML file, which may say ``extends = "tiny"`` and, like a script, runs
            the plugin files that it names; or a resolved study, whose plugin files are not run.
        overrides: ``key=value`` with a dotted key; the first part is a section (``train.warmup_steps=5``)
            or a method (``grpo.beta=0.01``). A value that is not TOML is text.
        methods: Replaces the study's methods; pairs of the file that name any other method are dropped.
        changes: Values of further keys, dotted or top-level, from command-line options.
        asked: These options as typed, by key, for error messages.
        run_plugins: False for a file that the user did not name: its plugin files are not run either.

    Raises:
        UserError: The file is missing or unreadable, a key or value is wrong, or has no effect.
    """
    asked = ({} if methods is None else {"methods": "--methods"}) | dict(asked or {})
    named = {} if methods is None else {"methods": list(methods)}
    given = [Said(key, value, asked.get(key, key)) for key, value in {**named, **(changes or {})}.items()]
    for said in given:
        refuse_undecodable(said.text, said.value)
    layers = _layers(source, (changes or {}).get("model.name") or model_named(overrides))
    _add_plugins(layers.document, run=run_plugins and not isinstance(source, StudyConfig))  # an override may name them
    given += [parse_setting(override, StudyConfig.model_fields) for override in overrides]
    refuse_twice(given)
    asked |= {said.key: said.text for said in given}
    if methods is not None:
        _drop_pairs(layers.document, {BASE, *methods})
    document = with_command_line(layers.document, given)
    if layers.kept and "name" not in asked:
        document["name"] = f"{document.get('name')}-{document['model']['name']}"
    try:
        study = StudyConfig(**document)
    except ValidationError as error:
        raise UserError(registry.describe_validation(error, layers.where, StudyConfig, asked)) from error
    _check_names(study, "methods:" if methods is None else "--methods")
    if not isinstance(source, StudyConfig):
        own = {key: f"{layers.where}.{key}" for key, _ in leaves(layers.own)} if "methods" not in asked else {}
        _refuse_without_effect(study, {said.key: said.text for said in given}, own)
    return study


def _layers(source: str | Path | StudyConfig, model: str | None) -> Layers:
    if not isinstance(source, StudyConfig):
        return read_layers(source, model)
    document = source.model_dump(mode="json")
    refuse_other_model(document, source.name, model)
    return Layers(document, source.name, {}, {})


def _refuse_without_effect(study: StudyConfig, given: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Refuse what the user says in vain: on the command line, or in a file by what this file says itself.

    Args:
        study: The whole study.
        given: The keys of the command line, and how they were typed.
        own: The keys of the study's own file, and what messages call them.
    """
    for key, text in {**own, **given}.items():
        head, *rest = key.split(".")
        full = study.model.tuning == "full" and (key in given or "model.tuning" not in given)
        if full and key.startswith("model.lora_"):
            raise UserError(f"`{text}`: it has no effect with model.tuning = full; LoRA is model.tuning = lora")
        if not ((head in SECTIONS and rest) or (head == "method" and len(rest) > 1)):
            continue
        methods = [method for method in study.methods if head != "method" or rest[0] in study.tables_of(method)]
        if not methods:
            raise UserError(f"`{text}`: {rest[0]} is not among the study's methods: {', '.join(study.methods)}")
        nearer = [study.nearer(method, key) for method in methods]
        if all(nearer) and (key in given or given.keys().isdisjoint(nearer)):
            raise UserError(f"`{text}`: it has no effect, because of {', '.join(dict.fromkeys(filter(None, nearer)))}")


def _drop_pairs(document: dict[str, Any], methods: set[str]) -> None:
    """Keep the declared pairs whose methods are all in the study; without any, the report chooses."""
    report = document.get("report", {})
    if isinstance(report, dict) and isinstance(report.get("pairs"), list):
        kept = [pair for pair in report["pairs"] if isinstance(pair, list) and methods.issuperset(pair)]
        document["report"] = {key: value for key, value in report.items() if key != "pairs"}
        if kept:
            document["report"]["pairs"] = kept


def _add_plugins(document: dict[str, Any], *, run: bool) -> None:
    """Register the plugin files that a study names, unless it is data; store these and those of ``--plugin`` in it."""
    runtime = document.get("runtime", {})
    named = runtime.get("plugins", []) if isinstance(runtime, dict) else []
    if isinstance(named, list) and all(isinstance(path, str) for path in named):
        files = [registry.add_file(path) if run else Path(path).expanduser().resolve() for path in named]
        known = registry.added_files()
        if found := known if set(known).issuperset(files) else files:
            put(document, "runtime.plugins", [str(file) for file in found])


def _check_names(study: StudyConfig, methods_asked: str) -> None:
    """Refuse unknown plugins and invalid options before anything is computed."""
    for method in study.methods:
        study.algorithm(method, asked=f"{methods_asked} {method}")
        own = study.for_method(method)
        _check_rewards(own.reward)
        registry.configure(
            "samplers",
            own.rollout.sampler,
            own.rollout.sampler_options,
            asked=f"rollout.sampler = {own.rollout.sampler}",
        )
    _refuse_the_same_twice(study)
    methods = registry.names("algorithms")
    sections: tuple[tuple[str, Iterable[str], list[str]], ...] = (
        ("method", study.method, []),
        ("tune.ranges", study.tune.ranges, ["all"]),
        ("tune.done", study.tune.done, []),
    )
    for section, names, more in sections:
        if unknown := [name for name in names if name not in (*more, *methods)]:
            raise unknown_name(f"{section}.{unknown[0]}", unknown[0], [*more, *methods])
    _check_benchmarks(study.evaluation)
    _check_checkpoints(study)
    for method in (name for pair in study.report.pairs or () for name in pair):
        if method not in (BASE, *study.methods):
            raise unknown_name(f"report.pairs: {method}", method, (BASE, *study.methods))


def _check_benchmarks(section: EvaluationSection) -> None:
    headline: Benchmark = registry.create("benchmarks", section.benchmark, asked=f"--benchmarks {section.benchmark}")
    if headline.own_questions:
        raise UserError(
            f"`evaluation.benchmark` = {section.benchmark}: it has questions of its own, so it cannot be the headline: "
            f"--benchmarks vsibench,{section.benchmark}"
        )
    headline.scorer_named(section.scorer, "evaluation.scorer =")
    for name, options in section.more.items():
        if name == section.benchmark:
            raise UserError(f"`evaluation.more.{name}`: it is the headline already; name each benchmark once")
        registry.create("benchmarks", name, options, asked=f"evaluation.more.{name}")


def _check_checkpoints(study: StudyConfig) -> None:
    """Refuse a rule that the runs' checkpoints do not allow, or that treats methods differently."""
    section, where = study.evaluation, f'`evaluation.checkpoint` = "{study.evaluation.checkpoint}"'
    if section.checkpoint == "last":
        return
    if section.development is not None and DEVELOPMENT in (section.benchmark, *section.more):
        raise UserError(f"{where}: the benchmark {DEVELOPMENT} has the name of the development records; rename it")
    found = {method: study.checkpoints_of(method) for method in study.methods}
    wanted = section.last or 2
    for method, number in found.items():
        if number < wanted:
            raise UserError(
                f"{where}: it needs {wanted} checkpoints of each run, and a run of {method} has {number} "
                "(train.checkpoints, at most one for each step of the budget); raise train.checkpoints"
            )
    if len(set(found.values())) > 1:
        raise UserError(
            f"{where}: the methods have different numbers of checkpoints, so it would not treat them alike "
            f"({', '.join(f'{method} {number}' for method, number in found.items())}); set train.checkpoints for all"
        )


def _check_rewards(section: RewardSection) -> None:
    for reward in section.weights:
        registry.create("rewards", reward, section.options.get(reward), asked=f"reward.weights.{reward}")
    for reward in section.options:
        if reward not in section.weights:
            raise unknown_name(f"reward.options.{reward}", reward, section.weights)


def _refuse_the_same_twice(study: StudyConfig) -> None:
    """Two names for the same training and evaluation would give two rows of the same numbers."""
    seen: dict[str, str] = {}
    for method in study.methods:
        own = study.for_method(method)
        parts: list[StrictConfig] = [study.algorithm(method).config, *(getattr(own, name) for name in SECTIONS)]
        key = digest_of([parse_variant(method).method, *(part.model_dump(mode="json") for part in parts)])
        if key in seen:
            raise UserError(f"`{method}` and `{seen[key]}` have the same settings; leave one out")
        seen[key] = method
