"""VSI-Bench's question types and tasks."""

from __future__ import annotations

NUMERIC_TYPES: tuple[str, ...] = (
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
)
"""Question types answered by a number and scored by mean relative accuracy."""

DIRECTION_TYPES: tuple[str, ...] = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
)

CHOICE_TYPES: tuple[str, ...] = (
    "object_rel_distance",
    *DIRECTION_TYPES,
    "route_planning",
    "obj_appearance_order",
)
"""Question types answered by an option letter (or, in free form, by the option's words)."""

QUESTION_TYPES: tuple[str, ...] = NUMERIC_TYPES + CHOICE_TYPES
"""The ten raw question types of VSI-Bench."""

TASKS: tuple[str, ...] = (
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
    "object_rel_distance",
    "object_rel_direction",
    "route_planning",
    "obj_appearance_order",
)
"""The eight tasks of VSI-Bench in the order of its tables; the three direction levels are one task."""

LETTERS = "ABCDEFGH"

TASK_TYPES: dict[str, tuple[str, ...]] = {
    task: DIRECTION_TYPES if task == "object_rel_direction" else (task,) for task in TASKS
}
"""The raw question types of each task."""


def task_of(question_type: str) -> str:
    """The task a raw question type belongs to (the three direction levels share one)."""
    return "object_rel_direction" if question_type in DIRECTION_TYPES else question_type
