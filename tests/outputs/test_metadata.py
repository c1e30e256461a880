from triplex_deploy.outputs.metadata import (
    MetadataRow,
    Stage,
    format_metadata,
    grouped_metadata,
    stages,
)

RUN = {
    "bundle_id": "abc",
    "bundle_mpp": 0.5,
    "level0_px_per_tile_px": 1.0,
    "spots_per_s": 23.714,
    "n_spots": 4992,
    "peak_memory_mb": 1812.44,
    "resampled": False,
    "device": None,
    "genes": ["A", "B"],
    "timings_s": {"read": 1.5, "fuse_spots": 4.5, "total": 6},
    "versions": {"triplex-deploy": "0.1.0"},
}


def test_facts_are_labelled_with_the_unit_their_name_says() -> None:
    assert format_metadata(RUN) == [
        MetadataRow("Bundle ID", "abc"),
        MetadataRow("Bundle scale", "0.5 µm/px"),
        MetadataRow("Level-0 px per tile px", "1"),
        MetadataRow("Spots per second", "23.71"),
        MetadataRow("Spots", "4,992"),
        MetadataRow("Peak memory", "1,812.4 MB"),
        MetadataRow("Resampled", "no"),
        MetadataRow("Device", "none"),
        MetadataRow("Genes", "A, B"),
    ]


def test_groups_keep_the_names_they_have() -> None:
    run = {**RUN, "label_transform": {}}
    assert grouped_metadata(run) == {"Versions": [MetadataRow("triplex-deploy", "0.1.0")]}


def test_stages_are_parts_of_the_total() -> None:
    assert stages(RUN) == [
        Stage("Read", "1.50 s", 0.25),
        Stage("Fuse spots", "4.50 s", 0.75),
        Stage("Total", "6.00 s", None),
    ]


def test_a_run_without_timings_has_no_stages() -> None:
    assert stages({"layout": "grid"}) == []


def test_steps_that_add_up_stand_in_place_of_the_work_of_graphs() -> None:
    wall_s = {"start-up": 1.0, "read and encode tiles": 6.0, "other": 1.0, "total": 8.0}
    run = {**RUN, "wall_s": wall_s}
    assert [(stage.label, stage.part) for stage in stages(run)] == [
        ("Start-up", 0.125),
        ("Read and encode tiles", 0.75),
        ("Other", 0.125),
        ("Total", None),
    ]
    rows = grouped_metadata(run)["Work by graph, in seconds"]
    assert rows[0] == MetadataRow("read", "1.5")
    assert "Wall s" not in grouped_metadata(run)


def test_labels_are_words_that_need_no_knowledge_of_the_program() -> None:
    assert format_metadata({"sharing": 3.5, "workers": 4}) == [
        MetadataRow("Spots that use one tile, on average", "3.5"),
        MetadataRow("Tiles encoded side by side", "4"),
    ]
