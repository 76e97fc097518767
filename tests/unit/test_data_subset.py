"""A limited benchmark: whole rooms, question types in proportion, the same on every machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from datasets_kit import write_whole_vsi_bench

from harness.data.reader import Dataset, read_dataset
from harness.data.subset import stratified_subset
from harness.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read_dataset(write_whole_vsi_bench(tmp_path_factory.mktemp("bench") / "hub"), check_videos=False)


@pytest.mark.parametrize("limit", [100, 400, 1000, 2500])
def test_rooms_are_whole_and_types_keep_their_shares(whole: Dataset, limit: int) -> None:
    part = stratified_subset(whole, limit)
    assert 0.9 * limit < len(part.records) <= limit
    rooms = {record.room for record in part.records}
    assert len(part.records) == sum(record.room in rooms for record in whole.records)
    everything, got = (Counter(record.question_type for record in data.records) for data in (whole, part))
    assert got.keys() == everything.keys(), "every type is there"
    for kind, count in everything.items():
        assert abs(got[kind] - count * limit / len(whole.records)) <= max(6, 0.15 * count * limit / 5130), kind
    sources, mine = (Counter(record.dataset for record in data.records) for data in (whole, part))
    for name, count in sources.items():
        assert abs(mine[name] / len(part.records) - count / len(whole.records)) < (0.05 if limit >= 400 else 0.15)


def test_the_choice_does_not_depend_on_the_order_of_the_file(whole: Dataset) -> None:
    part = stratified_subset(whole, 300)
    backwards = tuple(reversed(whole.records))
    again = stratified_subset(replace(whole, records=backwards), 300)
    assert {record.key for record in again.records} == {record.key for record in part.records}
    assert [record.key for record in part.records] == [r.key for r in whole.records if r in set(part.records)]
    assert part.digest != whole.digest


def test_bounds(whole: Dataset) -> None:
    assert stratified_subset(whole, 5130) is whole
    smallest = min(Counter(record.room for record in whole.records).values())
    with pytest.raises(UserError, match=rf"`--limit {smallest - 1}` .*the smallest of .* has {smallest} questions"):
        stratified_subset(whole, smallest - 1)
    assert len(stratified_subset(whole, smallest).records) == smallest
