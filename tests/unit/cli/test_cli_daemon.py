# SPDX-License-Identifier: Apache-2.0
"""`container-management`: what it answers by itself, and what it hands over to the agent."""

import signal
import sys
from types import SimpleNamespace

import pytest

from pycm import __version__
from pycm.cli.daemon import main
from pycm.config.types import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def agent(monkeypatch):
    """A stand-in that keeps what it was given."""
    calls = []

    def run(config, notes, source):
        calls.append((config, notes, source))
        calls.append(signal.getsignal(signal.SIGINT))
        return 7

    monkeypatch.setitem(
        sys.modules, "pycm.agent", SimpleNamespace(run=run, settle=lambda config: (config, []))
    )
    before = signal.getsignal(signal.SIGINT)
    yield calls
    signal.signal(signal.SIGINT, before)


def test_agent_gets_configuration_and_notes_and_gives_the_exit_code(agent, tmp_path, capsys):
    assert main(["--deployment-ctr-dir", str(tmp_path), "--conn-keep-alive=x"], etc=str(tmp_path)) == 7
    config, notes, source = agent[0]
    assert isinstance(config, Config)
    assert source.path == ""
    assert [note.level for note in notes] == [20, 30]
    assert "--conn-keep-alive" in notes[1].text
    assert capsys.readouterr() == ("", "")


def test_the_agent_can_read_its_configuration_again_and_flags_still_win(agent, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[connection]\nclient_username = "one"\nclient_password = "x"\n')
    main(["--conn-client-password=flag"], etc=str(tmp_path))
    source = agent[0][2]
    assert source.path == str(file)
    file.write_text('[connection]\nclient_username = "two"\nclient_password = "y"\n')
    found = source.read().connection
    assert (found.client_username, found.client_password) == ("two", "flag")


@pytest.mark.parametrize(
    ("before", "then"), [(signal.default_int_handler, signal.SIG_DFL), (signal.SIG_IGN, signal.SIG_IGN)]
)
def test_ctrl_c_while_the_agent_is_imported_ends_it_without_a_traceback(agent, tmp_path, before, then):
    signal.signal(signal.SIGINT, before)
    main([], etc=str(tmp_path))
    assert agent[1] is then


@pytest.mark.parametrize(
    "argv", [["--x"], ["x"], ["--cfg-file", "/nonexistent/x"], ["--cm-home-dir=x"], ["--cfg-file"]]
)
def test_wrong_line_is_one_line_on_stderr_and_exit_code_1(agent, tmp_path, capsys, argv):
    assert main(argv, etc=str(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    error, *hint = err.splitlines()
    assert error.startswith("Error: ")
    assert hint == (["hint: Check --cfg-file."] if argv[-1] == "/nonexistent/x" else [])
    assert agent == []


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_works_with_a_broken_file_too(agent, tmp_path, capsys, flag):
    (tmp_path / "config.toml").write_text("broken")
    assert main(["--log-level", "DEBUG", flag], etc=str(tmp_path)) == 0
    out, err = capsys.readouterr()
    assert "Usage:\n  container-management [flags]" in out
    assert "--cm-live-restore" in out
    assert (err, agent) == ("", [])


def test_version_is_printed(agent, tmp_path, capsys):
    assert main(["--version"], etc=str(tmp_path)) == 0
    assert capsys.readouterr().out == f"container-management (pycm) {__version__}\n"


def test_check_prints_toml_on_stdout_and_warnings_on_stderr(agent, tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[connection]\nclient_password = 'geheim'\n[log]\nlog_fil = ''")
    assert main(["--check-config", "--deployment-ctr-dir", str(tmp_path)], etc=str(tmp_path)) == 0
    out, err = capsys.readouterr()
    assert tomllib.loads(out)["connection"]["client_password"] == "***"
    assert err == (
        f"Warning: {tmp_path}/config.toml, line 4: log.log_fil: this key is not known; is log.log_file meant?\n"
    )
    assert agent == []


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--conn-broker-url=ws://localhost", "connection.broker_url: 'ws://localhost' cannot be used: the scheme must be one of tcp, "),
        ("--conn-broker-url=mqtts://localhost", "connection.transport.root_ca must name a PEM file for "),
        ("--conn-client-key=/x", "connection.transport: client_cert and client_key must be set together"),
        ("--grpc-serv-netp=udp", "grpc_server.protocol: 'udp' is none of unix, tcp, tcp4, tcp6"),
        ("--grpc-serv-netp=tcp", "grpc_server.address_path: "),
    ],
)  # fmt: skip
def test_check_refuses_what_the_rooms_would_refuse_at_the_start(tmp_path, capsys, flag, reason):
    argv = ["--check-config", "--deployment-ctr-dir", str(tmp_path)]
    assert main([*argv, flag], etc=str(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"Error: {reason}")
    if "conn" in flag:  # who does without the twin needs no broker
        assert main([*argv, flag, "--things-enable=false"], etc=str(tmp_path)) == 0


def test_check_names_every_error_and_fails(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[log]\nsyslog = 5\n[things]\nhome_dir = 'x'\n[thing]")
    argv = ["--check-config", "--grpc-serv-netp=udp", "--deployment-ctr-dir", str(tmp_path)]
    assert main(argv, etc=str(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    file = f"{tmp_path}/config.toml, line"
    assert err.splitlines() == [
        f"Warning: {file} 5: thing: this key is not known; is things meant?",
        f"Error: {file} 2: log.syslog: 5 is not true or false (the default is used)",
        f"Error: {file} 4: things.home_dir: 'x' is not an absolute path (the digital twin is disabled)",
        "Error: grpc_server.protocol: 'udp' is none of unix, tcp, tcp4, tcp6 (the API listens at its default address)",
    ]


def test_agent_starts_in_spite_of_an_error_and_gets_it_as_a_note(agent, tmp_path):
    (tmp_path / "config.toml").write_text("connection.keep_alive = 5")
    assert main([], etc=str(tmp_path)) == 7
    config, notes, _ = agent[0]
    assert config.things.enable is False
    assert [note.level for note in notes if "connection.keep_alive" in note.text] == [40]
