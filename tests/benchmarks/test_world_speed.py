"""How fast the embedded world is made: frames a second by frame size, one thread, processor time.

Run by hand:  pytest -s -m study tests/benchmarks/test_world_speed.py
"""

from __future__ import annotations

import time

import pytest

from harness.world.camera import FRAMES
from harness.world.questions import make_questions, question_rng
from harness.world.renderer import render_scene, sample_scene

SCENES = 25
WANTED = {56: 300, 84: 0, 112: 150, 168: 0}
"""Frames a second that one thread makes at least, by pixels per side; 0 where nothing is promised."""


@pytest.mark.study
def test_frames_a_second() -> None:
    begin = time.process_time()
    drawn = [sample_scene(seed) for seed in range(500, 500 + 2 * SCENES)]
    scenes = [scene for scene in drawn if scene is not None][:SCENES]
    assert len(scenes) == SCENES
    print(f"\nscene drawn and checked: {1000 * (time.process_time() - begin) / len(drawn):.1f} ms of the processor")
    begin = time.process_time()
    for scene in scenes:
        make_questions(scene, question_rng(scene))
    print(f"its questions: {1000 * (time.process_time() - begin) / SCENES:.1f} ms")
    for size, wanted in WANTED.items():
        render_scene.cache_clear()
        begin = time.process_time()
        for scene in scenes:
            render_scene(scene, size, tuple(range(0, FRAMES, 4)))
        rate = SCENES * FRAMES / 4 / (time.process_time() - begin)
        print(f"{size:4d} px: {rate:6.0f} frames a second")
        assert rate >= wanted
