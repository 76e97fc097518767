"""The commands about plugins: list, show, check, new."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from harness.cli.options import SETUP, StudyOptions, command, out_option
from harness.console import Console, Text
from harness.errors import UserError, unknown_name

if TYPE_CHECKING:
    from harness.api.testing import CheckResult
    from harness.api.types import Needs
    from harness.config.variants import Variant

CONFIGURABLE = ("algorithms", "rewards", "benchmarks", "samplers")
"""Groups of classes with hyper-parameters, in the order in which a name is looked up."""

app = typer.Typer()


@command(app, SETUP, name="list", only=("plugin",))
def list_(options: StudyOptions) -> None:
    """List all plugins and preset studies: what they are, need and cost."""
    from harness.config.layers import preset_names
    from harness.plugins import registry

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("Name", "Cost", "What it is, and needs", "From"):
        table.add_column(
            name, overflow="fold", no_wrap=name in ("Name", "Cost"), max_width=24 if name == "From" else None
        )
    for group in registry.GROUPS:
        table.add_row(Text(group, style="bold"))
        for row in registry.listing(group):
            needs = _default_needs(row.name) if group == "algorithms" and not row.error else None
            what = Text(f"broken: {row.error}", style="red") if row.error else Text(row.summary)
            if needs:
                what.append(f"\n{describe_needs(needs)}", style="dim")
            origin = Path(row.package).name if row.package.endswith(".py") else row.package
            table.add_row(f"  {row.name}", cost_class(needs) if needs else "", what, Text(origin, style="dim"))
    table.add_row(Text("studies", style="bold"))
    for name in preset_names():
        table.add_row(f"  {name}", "", Text(f"harness compare --study {name}"), "")
    console = Console()
    console.print(table)
    console.print(
        "Cost of a step, for the same number of prompts. low: a pass over given completions; medium: a pass of the "
        "reference model as well; high: sampling. More about one: harness show NAME",
        style="dim",
    )


@command(app, SETUP, only=("plugin",))
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, reward, benchmark, sampler; or grpo:beta=0.")],
    options: StudyOptions,
) -> None:
    """Show a method's equation, needs and hyper-parameters, with their meaning and source."""
    from harness.plugins import registry

    variant, group = _named(name, "show")
    cls, config = registry.configure(group, variant.method, dict(variant.settings))
    needs = cls(config).needs if group == "algorithms" else None
    console = Console()
    console.say((name, "bold"), f"  {cls.summary}")
    console.say(f"{group}, {registry.place_of(registry.find(group, variant.method))}", style="dim")
    if needs is not None:
        console.say(f"Needs: {describe_needs(needs)}. Cost: {cost_class(needs)}.")
    if getattr(cls, "counterpart", ""):
        remarks = "; ".join(cls.remarks)
        console.say(f"A guest trainer, run with the settings of {cls.counterpart} and compared with it: {remarks}.")
    paragraphs = (inspect.getdoc(cls) or "").split("\n\n")
    text = "\n\n".join(part if part.startswith(" ") else " ".join(part.split()) for part in paragraphs)
    console.print(Text(f"\n{text}\n"))
    fields = cls.Config.model_fields
    if not fields:
        console.say("It has no hyper-parameters.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("Hyper-parameter", "Value", "Allowed", "Meaning and source"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "Hyper-parameter")
    schemas = cls.Config.model_json_schema()["properties"]
    for key, field in fields.items():
        value = Text(str(getattr(config, key)), style="bold" if key in variant.settings else "")
        table.add_row(key, value, _allowed(schemas[key]), Text(field.description or ""))
    console.print(table)
    if group == "algorithms":
        change = f"{variant.method}.{next(iter(fields))}=..."
        console.say(f"\nChange one: -s {change}, or compare with the default: {change.replace('.', ':', 1)}")


@command(app, SETUP, only=("plugin", "cache"))
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method or reward, yours or built in; or grpo:beta=0.")],
    options: StudyOptions,
    pure: Annotated[
        bool, typer.Option("--pure", metavar="", help="Leave out the two training steps on the tiny model.")
    ] = False,
) -> int:
    """Run the conformance suite on a method or reward.

    A failed check names the likely mistake.

    [bold]Examples[/bold]

    harness check grpo
    harness check my_method --plugin my_method.py
    """
    variant, group = _named(name, "check")
    if group not in ("algorithms", "rewards"):
        raise UserError(f"`harness check {name}`: this is one of the {group}; only methods and rewards have checks")
    trains = group == "algorithms" and not pure
    if options.cache and not trains:
        raise UserError("`--cache`: it has no effect on a check without training; leave it out")
    console = Console()
    results = _tell(_check_contract(variant, group), console)
    if trains:
        if all(one.passed for one in results):
            from transformers.utils import logging

            from harness.api.testing import check_training

            logging.disable_progress_bar()
            results += _tell(check_training(name, options.cache or Path("cache")), console)
        else:
            console.say("The two training steps on the tiny model are run once these checks pass.", style="dim")
    passed = sum(one.passed for one in results)
    console.say(f"{name}: {passed} of {len(results)} checks passed")
    return 0 if passed == len(results) else 1


@command(app, SETUP)
def new(
    kind: Annotated[Literal["algorithm", "reward", "benchmark"], typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, such as my-method.")],
    out: Annotated[Path | None, out_option("NAME")] = None,
) -> None:
    """Write a small package with a working method, reward or benchmark to start from.

    It can be installed, and has tests and a README.

    [bold]Example[/bold]

    harness new algorithm my-method
    pip install -e my-method && harness check my-method
    """
    from harness.plugins.scaffold import write_package

    target = write_package(kind, name, out or Path(name))
    console = Console()
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        console.say(str(path))
    console.say(f"Next: see {target / 'README.md'}")


def describe_needs(needs: Needs) -> str:
    """What a method needs of the engine, in a few words."""
    parts = {
        f"{needs.rollouts} completion{'s' * (needs.rollouts > 1)} sampled"
        f"{' once, from the starting weights' * needs.offline}": needs.rollouts,
        f"{needs.shuffled} more with frames shuffled": needs.shuffled,
        "gold answer": needs.gold,
        "corrupted answer": needs.corrupted,
        "reference model": needs.reference,
        "more prompts for dropped ones": needs.resample_dropped,
    }
    return ", ".join(words for words, needed in parts.items() if needed)


def cost_class(needs: Needs) -> str:
    """``low``: one pass over given completions; ``medium``: the reference model's too; ``high``: sampling as well."""
    return "high" if needs.rollouts else "medium" if needs.reference else "low"


def _check_contract(variant: Variant, group: str) -> list[CheckResult]:
    """The checks of a plugin that need no model."""
    import harness.api.testing as testing
    from harness.api.guest import GuestTrainer
    from harness.plugins import registry

    cls = registry.load(group, variant.method)
    if group == "rewards":
        return testing.check_reward(cls)
    subject = registry.create(group, variant.method, dict(variant.settings)) if variant.settings else cls
    guest = isinstance(cls, type) and issubclass(cls, GuestTrainer)
    return testing.check_guest(subject) if guest else testing.check_algorithm(subject)


def _tell(results: list[CheckResult], console: Console) -> list[CheckResult]:
    for one in results:
        mark = ("passed ", "green") if one.passed else ("FAILED ", "bold red")
        console.say(mark, one.name, f": {one.message}" if one.message else "")
    return results


def _named(text: str, verb: str) -> tuple[Variant, str]:
    """The plugin that a name means, and its group."""
    from harness.config.variants import parse_variant
    from harness.plugins import registry

    try:
        variant = parse_variant(text)
    except ValueError as error:
        raise UserError(f"`harness {verb}`: {error}") from error
    for group in CONFIGURABLE:
        if variant.method in registry.names(group):
            return variant, group
    known = [name for group in CONFIGURABLE for name in registry.names(group)]
    unknown = unknown_name(f"harness {verb} {text}", variant.method, known)
    raise UserError(
        f"{unknown}. {registry.HOW_TO_ADD.format(group='GROUP')}. GROUP is one of {', '.join(CONFIGURABLE)}"
    )


def _default_needs(method: str) -> Needs | None:
    from harness.api.types import Needs
    from harness.plugins import registry

    try:
        needs = registry.create("algorithms", method).needs
    except Exception:  # `harness check` says what is wrong with it
        return None
    return needs if isinstance(needs, Needs) else None


def _allowed(schema: dict[str, Any]) -> str:
    """The choices, range or type of a hyper-parameter, from its JSON schema."""
    signs = {
        "minimum": ">=",
        "exclusiveMinimum": ">",
        "maximum": "<=",
        "exclusiveMaximum": "<",
        "multipleOf": "multiple of",
    }
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return ", ".join(map(str, schema.get("enum", bounds))) or schema.get("type", "")
