"""Commands about plugins: list, show, check, new."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.api.types import Needs
from harness.config.study import preset_names
from harness.config.variants import Variant, parse_variant
from harness.errors import UserError, unknown_name
from harness.plugins import registry

CONFIGURABLE = ("algorithms", "rewards", "benchmarks")
"""Groups of classes with hyper-parameters, in the order in which a name is looked up."""


def list_plugins() -> int:
    """``harness list``: every plugin and where it comes from; broken ones with their error."""
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
            cost = cost_class(needs) if needs else ""
            origin = Path(row.package).name if row.package.endswith(".py") else row.package
            table.add_row(f"  {row.name}", cost, what, Text(origin, style="dim"))
    table.add_row(Text("studies", style="bold"))
    for name in preset_names():
        table.add_row(f"  {name}", "", Text(f"harness compare --study {name}"), "")
    console = Console()
    console.print(table)
    console.print(
        "Cost of a step, for equal prompts. low: a pass over given answers; medium: and a reference pass; high: "
        "sampling. More about one: harness show NAME",
        style="dim",
    )
    return 0


def show(text: str) -> int:
    """``harness show``: what a method, reward or benchmark is, what it needs, and each hyper-parameter with source."""
    variant, group = _named(text, "show")
    entry = registry.find(group, variant.method)
    plugin = registry.create(group, variant.method, dict(variant.settings))
    cls = type(plugin)
    console = Console(highlight=False)
    console.print(Text.assemble((text, "bold"), f"  {cls.summary}"), soft_wrap=True)
    console.print(Text(f"{group}, {registry.place_of(entry)}", style="dim"), soft_wrap=True)
    if isinstance(getattr(plugin, "needs", None), Needs):
        console.print(f"Needs: {describe_needs(plugin.needs)}. Cost: {cost_class(plugin.needs)}.", soft_wrap=True)
    if getattr(cls, "counterpart", ""):
        console.print(f"A guest beside {cls.counterpart}, with its settings: {'; '.join(cls.remarks)}.", soft_wrap=True)
    console.print(Text(f"\n{_reflowed(inspect.getdoc(cls) or '')}\n"))
    fields = cls.Config.model_fields
    if not fields:
        console.print("It has no hyper-parameters.")
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("Hyper-parameter", "Value", "Allowed", "Meaning and source"):
        table.add_column(name, overflow="fold", no_wrap=name == "Hyper-parameter")
    for name, field in fields.items():
        value = Text(str(getattr(plugin.config, name)), style="bold" if name in variant.settings else "")
        table.add_row(name, value, _allowed(field), Text(field.description or ""))
    console.print(table)
    if group == "algorithms":
        first = next(iter(fields))
        console.print(
            f"\nChange one: -s {variant.method}.{first}=..., or beside the default: {variant.method}:{first}=..."
        )
    return 0


def check(text: str, *, pure: bool, cache: Path) -> int:
    """``harness check``: the conformance suite on a method or reward, two real steps included; 1 when a check fails."""
    from harness.api.guest import GuestTrainer
    from harness.api.testing import CheckResult, check_algorithm, check_guest, check_reward, check_training

    variant, group = _named(text, "check")
    console = Console(highlight=False)

    def tell(results: Sequence[CheckResult]) -> bool:
        for one in results:
            mark = Text("passed ", style="green") if one.passed else Text("FAILED ", style="bold red")
            console.print(Text.assemble(mark, one.name, f": {one.message}" if one.message else ""), soft_wrap=True)
        return all(one.passed for one in results)

    if group == "benchmarks":
        raise UserError(f"`harness check {text}`: there are checks for methods and rewards, and this is a benchmark")
    cls = registry.load(group, variant.method)
    if group == "rewards":
        results = check_reward(cls)
        good = tell(results)
    else:
        subject = registry.create(group, variant.method, dict(variant.settings)) if variant.settings else cls
        guest = isinstance(cls, type) and issubclass(cls, GuestTrainer)
        if guest:
            console.print(
                "A guest: its loop and loss are its own, so what it makes of a study is checked.", style="dim"
            )
        results = check_guest(subject) if guest else check_algorithm(subject)
        good = tell(results)
        if good and not pure:
            _hide_progress_bars()
            more = check_training(text, cache)
            results += more
            good = tell(more)
        elif not good and not pure:
            console.print("The two steps on the tiny model are tried once these pass.", style="dim")
    failed = sum(not one.passed for one in results)
    console.print(f"{text}: {len(results) - failed} of {len(results)} checks passed")
    return 0 if good else 1


def new(kind: str, name: str, folder: Path | None) -> int:
    """``harness new``: write a small installable package."""
    from harness.plugins.scaffold import write_package

    target = write_package(kind, name, folder or Path(name))
    console = Console(highlight=False)
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        console.print(str(path), soft_wrap=True)
    console.print(f"Next: see {target / 'README.md'}", soft_wrap=True)
    return 0


def describe_needs(needs: Needs) -> str:
    """What a method asks of the engine, in a few words."""
    parts = []
    if needs.rollouts:
        parts.append(f"{needs.rollouts} sampled answers" if needs.rollouts > 1 else "1 sampled answer")
    parts += [f"{needs.shuffled} more on shuffled frames"] if needs.shuffled else []
    parts += [word for word, there in (("gold answer", needs.gold), ("corrupted answer", needs.corrupted)) if there]
    parts += ["reference"] if needs.reference else []
    parts += ["more prompts for dropped ones"] if needs.resample_dropped else []
    return ", ".join(parts)


def cost_class(needs: Needs) -> str:
    """``low``: one pass over given answers; ``medium``: and a reference pass; ``high``: sampling as well."""
    return "high" if needs.rollouts else "medium" if needs.reference else "low"


def _named(text: str, verb: str) -> tuple[Variant, str]:
    """The plugin that a name means, and its group."""
    try:
        variant = parse_variant(text)
    except ValueError as error:
        raise UserError(f"`harness {verb}`: {error}") from error
    for group in CONFIGURABLE:
        if variant.method in registry.names(group):
            return variant, group
    known = [name for group in CONFIGURABLE for name in registry.names(group)]
    unknown = unknown_name(f"harness {verb} {text}", variant.method, known)
    raise UserError(f"{unknown}. {registry.HOW_TO_ADD.format(group='algorithms')}")


def _reflowed(text: str) -> str:
    """Paragraphs as one line each, for the console to wrap; indented ones as they are."""
    parts = text.split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else " ".join(part.split()) for part in parts)


def _hide_progress_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def _default_needs(method: str) -> Needs | None:
    try:
        needs = registry.create("algorithms", method).needs
    except Exception:  # `harness check` says what is wrong with it
        return None
    return needs if isinstance(needs, Needs) else None


def _allowed(field: Any) -> str:
    """The range or the choices of a field."""
    choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ()
    if choices:
        return ", ".join(map(str, choices))
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of"}
    bounds = [
        f"{sign} {getattr(rule, key):g}" for rule in field.metadata for key, sign in signs.items() if hasattr(rule, key)
    ]
    return ", ".join(bounds) or getattr(field.annotation, "__name__", str(field.annotation))
