from __future__ import annotations

from pathlib import Path

from quantpipe.core.artifact import Artifact, ArtifactKind

PAIR = ArtifactKind(name="pair", files=("first", "second"), optional_files=("third",))
FOLDER = Path("entry")


def pair(digest: str, **sources: Artifact) -> Artifact:
    digests = {"first": digest, "second": "2"}
    return Artifact(kind=PAIR, folder=FOLDER, digests=digests, sources=sources)


def test_its_path_leads_to_the_first_file() -> None:
    assert pair("1").path == FOLDER / "first"


def test_a_file_is_found_where_it_is_there() -> None:
    assert pair("1").file("second") == FOLDER / "second"
    assert pair("1").file("third") is None


def test_a_kind_is_shown_by_its_name() -> None:
    assert str(PAIR) == "pair"


def test_its_identity_is_content_and_not_where_it_lies() -> None:
    one = pair("1", made_from=pair("0"))
    moved = Artifact(kind=PAIR, folder=Path("elsewhere"), digests=one.digests, sources=one.sources)
    for lineage in (False, True):
        assert one.identity(lineage=lineage) == moved.identity(lineage=lineage)
    assert one.identity(lineage=False) == {
        "kind": "pair",
        "files": {"first": "1", "second": "2"},
    }


def test_with_lineage_all_it_came_from_is_named() -> None:
    def made(first: str) -> Artifact:
        return pair("same", by=pair("same", by=pair(first)))

    assert made("1").identity(lineage=False) == made("2").identity(lineage=False)
    assert made("1").identity(lineage=True) != made("2").identity(lineage=True)
