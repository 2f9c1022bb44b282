from pathlib import Path

import pytest

from dev.bench.standin_systemd import Command, Exit, UnitError, environment_of, merge, read_unit, seconds


def test_values_of_a_drop_in_come_after_those_of_the_unit():
    merged = merge(["[Service]\nExecStart=/a\nRestart=no\n", "[Service]\nExecStart=/b\nRestart=always\n"])
    assert merged["Service"] == {"ExecStart": ["/a", "/b"], "Restart": ["no", "always"]}


def test_an_empty_assignment_clears_the_earlier_values():
    merged = merge(["[Service]\nExecStart=/a\n", "[Service]\nExecStart=\nExecStart=/b $ARGS\n"])
    assert merged["Service"]["ExecStart"] == ["/b $ARGS"]


def test_comments_are_dropped_and_continued_lines_joined():
    merged = merge(["# no\n[Unit]\n; no\nDescription=one \\\n# no\n  two\n"])
    assert merged == {"Unit": {"Description": ["one    two"]}}


def test_the_file_in_the_last_folder_wins_and_drop_ins_are_sorted_by_name(tmp_path: Path):
    for path, value in (("lib/x.service", "1"), ("etc/x.service", "2"), ("lib/x.service.d/20.conf", "20"),
                        ("etc/x.service.d/10.conf", "10"), ("etc/x.service.d/20.conf", "20e")):  # fmt: skip
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"[Service]\nExecStartPre=/{value}\n")
    unit = read_unit("x.service", (tmp_path / "lib", tmp_path / "etc"))
    assert unit["Service"]["ExecStartPre"] == ["/2", "/10", "/20e"]
    with pytest.raises(UnitError, match="no unit file"):
        read_unit("y.service", (tmp_path,))


@pytest.mark.parametrize(
    ("text", "expected"), [("5", 5), ("300ms", 0.3), ("1min 30s", 90), ("1.5", 1.5), ("infinity", float("inf"))]
)
def test_time_spans_are_read_as_seconds(text: str, expected: float):
    assert seconds(text) == pytest.approx(expected)


def test_a_bare_variable_becomes_several_words_and_one_in_braces_stays_one():
    command = Command.parse('/bin/x $ARGS -f ${FILE}.cfg "$NOT here" $NONE')
    assert command.expanded({"ARGS": "-a -b", "FILE": "one two"}) == [
        "/bin/x",
        "-a",
        "-b",
        "-f",
        "one two.cfg",
        "$NOT here",
    ]


@pytest.mark.parametrize(
    ("line", "may_fail"),
    [("/bin/x", False), ("-/bin/x", True), ("+/bin/x", False), ("-+/bin/x", True), ("!-/bin/x", True)],
)
def test_a_minus_among_the_prefixes_lets_a_command_fail(line: str, may_fail: bool):
    assert Command.parse(line) == Command(("/bin/x",), may_fail)


def test_environment_files_override_the_environment_of_the_unit(tmp_path: Path):
    file = tmp_path / "defaults"
    file.write_text('# OPTIONS="no"\nOPTIONS="-x -y"\n\nEMPTY=""\n')
    service = {"Environment": ['"OPTIONS=old" "CONFIG=/etc/x y"'], "EnvironmentFile": ["-/does/not/exist", str(file)]}
    assert environment_of(service, {"PATH": "/bin"}) == {
        "PATH": "/bin", "OPTIONS": "-x -y", "CONFIG": "/etc/x y", "EMPTY": "",
    }  # fmt: skip
    with pytest.raises(UnitError, match="/does/not/exist"):
        environment_of({"EnvironmentFile": ["/does/not/exist"]}, {})


def test_exits_are_reported_and_judged_as_in_systemd():
    assert Exit(-9).variables == {"EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}
    assert Exit(3).variables == {"EXIT_CODE": "exited", "EXIT_STATUS": "3"}
    assert [Exit(status).clean() for status in (0, -15, 1, -9)] == [True, True, False, False]
    assert Exit(143).clean(["143 SIGKILL"])
    assert Exit(-9).clean(["143 SIGKILL"])
