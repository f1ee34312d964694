"""Which runs have the same data."""

from collections.abc import Callable

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.same_data import split_by_data

MakeRecord = Callable[..., RunRecord]


def test_equal_rows_from_two_sources_count_as_the_same_data(make_record: MakeRecord) -> None:
    """The link may be indirect: a run on files with the hub's fingerprint makes all runs on those files comparable."""
    hub = make_record("seed=0", held_out=0.5)
    files = [make_record(f"seed={seed}", held_out=0.5, data={"source": "files sha256:0"}) for seed in (0, 1)]
    assert hub.data.fingerprint == files[0].data.fingerprint != files[1].data.fingerprint
    for order in ([hub, *files], [hub, *files[::-1]], [files[1], hub, files[0]]):
        [found] = split_by_data(order)
        assert sorted(map(id, found)) == sorted(map(id, order))  # a link that joins two parts loses no run of either


def test_the_largest_data_comes_first(make_record: MakeRecord) -> None:
    part = {"source": "files", "fingerprint": "0", "rows": {"train": 10, "held_out": 0, "validation": 5}}
    small, large = make_record("task=mnli", data=part), make_record("task=mnli")
    assert split_by_data([small, large]) == split_by_data([large, small]) == [[large], [small]]
    again = make_record("task=mnli", "seed=1", data=part)
    assert split_by_data([small, again, large]) == [[large], [small, again]]  # however many runs the other has
    others = [make_record("task=mnli", f"seed={seed}", data={"source": "a", "fingerprint": "a"}) for seed in (0, 1)]
    assert split_by_data([large, *others]) == [others, [large]]


def test_a_name_or_a_place_of_the_rows_makes_no_other_data(make_record: MakeRecord) -> None:
    """Records of one data set may declare its title, its folder or its official rows differently."""
    one, other = make_record("task=mnli"), make_record("task=mnli", "seed=1")
    other.config["task"] |= {"title": "Another name", "folder": "elsewhere", "rows": {}}
    assert len(split_by_data([one, other])) == 1


def test_another_reported_score_is_another_task(make_record: MakeRecord) -> None:
    assert len(split_by_data([make_record("task=stsb"), make_record("task=stsb", "task.score=spearman")])) == 2
