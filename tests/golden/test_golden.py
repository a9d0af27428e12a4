"""What earlier versions wrote is still read, and means the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from msgspec import NODEFAULT, Raw, Struct, structs

from swarm import messages, schemas
from swarm.actors.leader import CONTROL_VERBS
from swarm.actors.requests import SHARD_VERBS
from swarm.core.envelope import LogPosition, decode_entry, encode_entry
from swarm.messages import STATUSES, ClusterEvent, Edge, Event, ItemCommand, state
from swarm.schemas import bundle, classes
from tests.golden import make
from tests.golden.examples import EXAMPLES
from tests.golden.files import (
    LOG,
    GoldenMessage,
    as_of_version,
    fold,
    read_log,
    read_messages,
    read_state,
    versions,
)

VERSIONS = versions()
SCHEMAS = bundle()
NEW_VERSION = (
    "a message has changed: say so in tests/golden/examples.py, then run "
    "python -m tests.golden.make; the files of earlier versions stay as they are"
)
#: What must not depend on where a reader began.
STATE_OF_A_PURGED_LOG = (
    *("items", "stored", "holds", "keys", "ended", "archived", "blocked", "untold"),
    *("needs", "horizon", "conservation"),
)
NEWEST = read_messages(VERSIONS[-1])
ALL = [
    pytest.param(golden, id=f"v{version} {golden.name}")
    for version in VERSIONS
    for golden in read_messages(version)
]


def class_of(golden: GoldenMessage) -> type[Struct]:
    found: type[Struct] = getattr(messages, golden.message)
    return found


def decode(golden: GoldenMessage, data: bytes | None = None) -> Struct:
    return msgspec.json.decode(bytes(golden.data) if data is None else data, type=class_of(golden))


def valid_by(message: str) -> Draft202012Validator:
    return Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{message}"})


def test_there_are_files_of_every_version() -> None:
    assert list(range(1, len(VERSIONS) + 1)) == VERSIONS
    assert VERSIONS


@pytest.mark.parametrize("golden", ALL)
def test_a_message_is_read_and_written_as_it_was(golden: GoldenMessage) -> None:
    again = msgspec.json.encode(decode(golden))
    if golden.form == "spelled":
        # Whether a default is written out makes no difference.
        assert plain(decode(golden)) == plain(decode(_minimal(golden.message)))
    elif golden in NEWEST:
        assert again == bytes(golden.data)
    else:
        # What has been added since may stand beside it.
        assert by_field(golden, again).items() >= by_field(golden).items()


def by_field(golden: GoldenMessage, data: bytes | None = None) -> dict[str, Any]:
    """What is written, by field, also of a message that is written as an array."""
    written = msgspec.json.decode(golden.data if data is None else data)
    if isinstance(written, dict):
        return written
    tag = class_of(golden).__struct_config__.tag is not None
    return dict(zip(class_of(golden).__struct_encode_fields__, written[tag:], strict=False))


def _minimal(message: str) -> GoldenMessage:
    return next(one for one in NEWEST if (one.message, one.form) == (message, "minimal"))


def _required(golden: GoldenMessage) -> set[str]:
    return {field.encode_name for field in structs.fields(class_of(golden)) if field.required}


def plain(value: Any) -> Any:
    """`value` with encoded JSON decoded, to compare by meaning."""
    match value:
        case Raw():
            return msgspec.json.decode(value)
        case Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case list() | tuple():
            return [plain(one) for one in value]
        case _:
            return value


@pytest.mark.parametrize("golden", ALL)
def test_unknown_fields_are_ignored(golden: GoldenMessage) -> None:
    value = msgspec.json.decode(golden.data)
    # At the top, where any shape can grow; what is any JSON keeps all of its own fields.
    more: Any = {"x": [1]}
    if isinstance(value, list):
        more = [*msgspec.json.decode(msgspec.json.encode(decode(golden))), more]
    else:
        more = {**value, "of_a_later_version": more}
    assert plain(decode(golden, msgspec.json.encode(more))) == plain(decode(golden))


@pytest.mark.parametrize("kind", [Event, ClusterEvent, ItemCommand, Edge])
def test_unknown_fields_are_ignored_in_unions(kind: Any) -> None:
    names = {one.__name__ for one in kind.__args__}
    for golden in NEWEST:
        if golden.message in names:
            value = msgspec.json.decode(golden.data)
            more = msgspec.json.encode({"of_a_later_version": 1, **value})
            assert plain(msgspec.json.decode(more, type=kind)) == plain(decode(golden))


@pytest.mark.parametrize("golden", ALL)
def test_a_message_is_valid_by_its_schema(golden: GoldenMessage) -> None:
    valid_by(golden.message).validate(msgspec.json.decode(golden.data))


def test_a_schema_can_say_no() -> None:
    errors = valid_by("Submit").iter_errors(
        {"items": [{"work_type": "two words", "priority": "at once"}], "retry": "no"}
    )
    assert sorted(".".join(map(str, error.path)) for error in errors) == [
        "items.0.priority",
        "items.0.work_type",
        "retry",
    ]


def test_the_newest_files_know_every_field_of_every_message() -> None:
    seen: dict[str, set[str]] = {}
    for golden in NEWEST:
        if golden.form == "full" or golden.message not in seen:
            seen[golden.message] = set(by_field(golden))
    for message in classes():
        fields = {field.encode_name for field in structs.fields(message)}
        assert fields <= seen.get(message.__name__, set()), f"{message.__name__}: {NEW_VERSION}"


def test_a_new_field_has_a_default() -> None:
    """Whatever the first version required, and nothing else, is required today."""
    for golden in read_messages(VERSIONS[0]):
        if golden.form == "minimal":
            written = set(by_field(golden))
            assert _required(golden) <= written, f"{golden.message}: a new field needs a default"


# --- the log ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_log_means_what_it_meant(version: int) -> None:
    assert as_of_version(fold(read_log(version)), version) == read_state(version)


def test_a_purged_log_means_the_same() -> None:
    """Whoever begins to read where the last mark allows it knows all that there is to know."""
    entries, whole = read_log(VERSIONS[-1]), read_state(VERSIONS[-1])
    needs = whole["needs"]
    assert needs > 1, NEW_VERSION
    assert entries[needs - 1].seq == needs
    rest = fold(entries[needs - 1 :])
    for name in STATE_OF_A_PURGED_LOG:
        assert rest[name] == whole[name], name
    # Work types stay listed when they have no ready items.
    order = {kind: ids for kind, ids in whole["claim_order"].items() if ids}
    assert {kind: ids for kind, ids in rest["claim_order"].items() if ids} == order
    assert len(order["review"]) > 2, NEW_VERSION
    # It may remember more than the owner did, never less.
    known = {id_: answer for id_, answer in whole["answers"].items() if answer is not None}
    assert rest["answers"].items() >= known.items()
    with pytest.raises(AssertionError, match="known again"):
        fold(entries[needs:])


def test_an_entry_of_the_log_is_written_as_it_was() -> None:
    for stored in read_log(VERSIONS[-1]):
        entry = decode_entry(LOG, stored.seq, stored.data)
        assert entry is None or encode_entry(entry) == stored.data


def test_the_newest_log_has_everything_in_it() -> None:
    entries = [decode_entry(LOG, one.seq, one.data) for one in read_log(VERSIONS[-1])]
    ours = [entry for entry in entries if entry is not None]
    kinds = {type(event) for entry in ours for event in entry.events}
    assert kinds == set(Event.__args__), NEW_VERSION
    causes = {getattr(event, "cause", None) for entry in ours for event in entry.events}
    assert causes >= {"agent", "unlisted", "lapsed", "stalled", "failed", "deadline", "expired"}
    assert {entry.epoch for entry in ours} == {1, 2}
    assert len({entry.owner for entry in ours}) == 2
    assert None in entries, "an entry of somebody else"
    assert any(not entry.events for entry in ours), "an entry that only carries answers"
    links = read_state(VERSIONS[-1])["links"]
    assert links.count("foreign") == 2, "one is no entry of ours, one its fence should have stopped"
    counts = read_state(VERSIONS[-1])["stats"]["counts"]
    assert {status for status, count in counts.items() if count} == set(STATUSES), NEW_VERSION


def test_a_log_with_a_hole_is_noticed() -> None:
    entries = read_log(VERSIONS[-1])
    for missing in range(1, len(entries) - 1):
        position = LogPosition(LOG)
        links = {
            position.advance(one.seq, decode_entry(LOG, one.seq, one.data)).value
            for index, one in enumerate(entries)
            if index != missing
        }
        assert "gap" in links, f"entry {entries[missing].seq} was left out unnoticed"


# --- making a new version ----------------------------------------------------------------------


def test_a_new_version_can_be_made_and_is_never_made_twice(tmp_path: Path) -> None:
    make.main(tmp_path, 7)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log-v7.jsonl", "log-v7.state.json", "messages-v7.jsonl"]
    with pytest.raises(FileExistsError):
        make.main(tmp_path, 7)


def test_the_newest_examples_are_those_of_the_newest_files(tmp_path: Path) -> None:
    made = [(golden.name, bytes(golden.data)) for golden in make.messages()]
    written = [(golden.name, bytes(golden.data)) for golden in NEWEST]
    assert made == written, NEW_VERSION


def test_every_full_example_leaves_out_no_field() -> None:
    for name, (_, full) in EXAMPLES.items():
        for field in structs.fields(full):
            if field.default is not NODEFAULT:
                assert getattr(full, field.name) != field.default, f"{name}.{field.name}"


# --- the schemas ---------------------------------------------------------------------------------

FOLDER = Path(__file__).parents[2] / schemas.FOLDER


def test_the_committed_schemas_are_those_of_the_messages() -> None:
    assert schemas.differing(FOLDER) == [], "run: python -m swarm.schemas"


def test_check_names_the_files_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schemas.main(["--folder", str(tmp_path)]) == 0
    assert schemas.main(["--check", "--folder", str(tmp_path)]) == 0
    (tmp_path / "messages.json").write_bytes(b"{}")
    (tmp_path / "old.json").write_bytes(b"{}")
    capsys.readouterr()
    assert schemas.main(["--check", "--folder", str(tmp_path)]) == 1
    named = [Path(line.split(" ")[0]).name for line in capsys.readouterr().out.splitlines()]
    assert named == ["old.json", "messages.json"]


def test_the_index_names_every_message_that_travels_by_itself() -> None:
    routed = {route.message for route in schemas.ROUTES}
    routed |= {reply for route in schemas.ROUTES for reply in route.replies}
    known = {message.__name__ for message in classes()}
    assert routed <= known
    inside = {one.__name__ for one in (*Event.__args__, *ClusterEvent.__args__)}
    inside |= {"Conflict", "CoordinatorRouted", "Credit", "EarlierMap", "ErrorBody", "NewItem"}
    inside |= {"Round", "RuleRouted", "ShardMove", "SubmitResult", "Usage"}
    inside |= {one.__name__ for one in vars(state).values() if one in classes()} - {"Finished"}
    assert known - routed == inside, "parts of other messages"


def test_the_index_knows_every_verb_of_a_shard() -> None:
    subjects = [route.subject for route in schemas.ROUTES]
    verbs = [one.split(".")[3] for one in subjects if one.startswith("<p>.shard.<n>.")]
    assert sorted(set(verbs)) == sorted(SHARD_VERBS)


def test_the_index_knows_every_verb_of_the_leader() -> None:
    subjects = [route.subject for route in schemas.ROUTES]
    verbs = {one.split(".")[2] for one in subjects if one.startswith("<p>.control.")}
    assert verbs == set(CONTROL_VERBS)
