"""`hf-radial report --live`: the page grows with the runs, survives whatever their files go through, and tells nobody else."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from functools import partial
from http.client import HTTPConnection
from threading import Thread

import numpy as np
import pytest
from fake_runs import SITES, fake_run
from test_page import data_of

from hf_radial.geometry.reading import TABLE_FILE, Table, read_table
from hf_radial.report.live import Live, LiveServer
from hf_radial.runs.files import read_run
from hf_radial.runs.following import FollowedRun
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC

STATE = "trainer_state.json"


@pytest.fixture
def looked(monkeypatch):
    """Look at the files at every question."""
    monkeypatch.setattr("hf_radial.report.live.SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture
def finished(tmp_path):
    """A run that has ended, from which others are cut."""
    fake_run(tmp_path / "finished", sites=SITES[:2], groups=("radial", "spectrum"), steps=8_000, onset=2_000)
    return tmp_path / "finished"


def cut(finished, run, step):
    """The finished run as it was at a step."""
    run.mkdir(exist_ok=True)
    state = json.loads((finished / STATE).read_text())
    state["log_history"] = [logs for logs in state["log_history"] if logs["step"] <= step]
    (run / STATE).write_text(json.dumps(state))
    read_table(finished / TABLE_FILE).up_to(step).write(run / TABLE_FILE)
    return run


def grown(page, changes):
    """What the page's script makes of changes: the lines of its only run."""
    lines = {}
    for found in [page["runs"][0], *changes]:
        for source, sites in found.get("series", {}).items():
            for site, (steps, values, keep) in sites.items():
                old = lines.get((source, site), ([], []))
                lines[source, site] = (old[0][:keep] + found["steps"][steps], old[1][:keep] + values)
    return lines


def assert_whole(lines, run):
    for (source, site), (steps, values) in lines.items():
        series = run.logged(source[4:]) if source.startswith("log:") else run.series(source, site)
        assert steps == series.steps.tolist(), (source, site)
        np.testing.assert_allclose(np.array(values, float), series.values, rtol=5e-5)


@pytest.mark.quick
def test_only_new_rows_are_sent_and_together_they_are_the_run(looked, finished, tmp_path):
    run = cut(finished, tmp_path / "run", 0)
    live = Live([run])
    page = data_of(live.page())
    after, changes, points = page["after"], [], 0
    for step in (50, 400, 400, 3_000, 8_000):
        cut(finished, run, step)
        found = live.rows(after)
        changes += found["changes"]
        assert (found["after"] > after) == bool(found["changes"])
        after = found["after"]
    lines = grown(page, changes)
    assert_whole(lines, read_run(run))
    for change in changes:
        points += sum(len(line[1]) for sites in change["series"].values() for line in sites.values())
    had = sum(len(line[1]) for sites in page["runs"][0]["series"].values() for line in sites.values())
    assert had + points == sum(len(values) for _, values in lines.values())  # no point was sent twice
    assert changes[-1]["answer"]["onset"] is not None and changes[0]["answer"]["onset"] is None
    assert live.rows(after)["changes"] == []


def test_a_run_that_goes_on_from_an_earlier_checkpoint_replaces_what_came_after(looked, finished, tmp_path):
    run = cut(finished, tmp_path / "run", 8_000)
    live = Live([run])
    page = data_of(live.page())
    cut(finished, run, 1_000)
    changes = live.rows(page["after"])["changes"]
    assert_whole(grown(page, changes), read_run(run))
    other = tmp_path / "other"
    fake_run(other, sites=SITES[:2], groups=("radial", "spectrum"), steps=4_000, onset=1_000)
    for name in (STATE, TABLE_FILE):
        shutil.copy(other / name, run / name)
    changes += live.rows(page["after"] + len(changes))["changes"]
    assert_whole(grown(page, changes), read_run(run))


@pytest.mark.parametrize("name", [STATE, TABLE_FILE, "run.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_half_written_file_leaves_what_was_known_and_is_read_when_it_is_whole(name, share, looked, finished, tmp_path):
    shutil.copy(finished / "run.json", tmp_path)
    run = cut(finished, tmp_path / "run", 1_000)
    shutil.copy(finished / "run.json", run)
    live = Live([run])
    page = data_of(live.page())
    before = grown(page, [])
    whole = (finished / name).read_bytes()
    (run / name).write_bytes(whole[: int(share * len(whole))])
    found = live.rows(page["after"])
    assert name in found["news"] and "cannot be read" in found["news"]
    after = grown(page, found["changes"])
    assert all(after[line] == before[line] for line in before)
    (run / name).write_bytes(whole)
    found = live.rows(page["after"])
    assert "cannot be read" not in found["news"]
    if name != "run.json":
        assert_whole(grown(page, found["changes"]), read_run(run))


def test_tensorboards_events_are_followed_from_log_to_log_and_read_on_where_they_broke_off(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    run = tmp_path / "run"
    run.mkdir()
    followed = FollowedRun(run, "run")
    assert not followed.poll() and followed.run.log == []
    with SummaryWriter(run / "runs" / "now") as writer:
        for step in (10, 20):
            writer.add_scalar("train/loss", 1 / step, step)
            writer.add_scalar("train/geometry/h.0/radius_mean", step, step)
            writer.add_scalar("eval/validation_exact_match", step / 100, step)
    (events,) = (run / "runs" / "now").iterdir()
    whole = events.read_bytes()
    events.write_bytes(whole[:-5])  # the process was killed as it wrote
    assert followed.poll() and not followed.poll()
    assert followed.run.logged("loss").steps.tolist() == [10, 20]
    assert followed.run.logged(HELD_OUT_METRIC).steps.tolist() == [10]
    events.write_bytes(whole)
    assert followed.poll()
    np.testing.assert_allclose(followed.run.logged(HELD_OUT_METRIC).values, [0.1, 0.2], rtol=1e-6)
    assert followed.run.series("radius_mean", "h.0").values.tolist() == [10, 20]
    # The state, once there, has all digits; what TensorBoard has after it stays.
    (run / STATE).write_text(json.dumps({"log_history": [{"step": 10, "loss": 0.125, HELD_OUT_METRIC: 0.9}]}))
    assert followed.poll()
    assert followed.run.logged("loss").values.tolist()[0] == 0.125 and followed.run.logged("loss").steps.tolist() == [10, 20]


def test_the_table_is_continued_by_the_log_that_is_ahead_of_it(tmp_path):
    run = tmp_path / "run"
    fake_run(run, sites=SITES[:1], groups=("spectrum",), steps=1_000)
    state = json.loads((run / STATE).read_text())
    state["log_history"].append({"step": 1_200, f"geometry/{SITES[0]}/effective_rank": 7.0})
    (run / STATE).write_text(json.dumps(state))
    followed = FollowedRun(run, "run")
    followed.poll()
    series = followed.run.series("effective_rank", SITES[0])
    assert (series.steps[-1], series.values[-1]) == (1_200, 7.0) and len(series.steps) > 20


def test_a_link_out_of_the_folder_is_not_followed(finished, tmp_path):
    run = tmp_path / "run"
    (run / "runs").mkdir(parents=True)
    (run / STATE).symlink_to(finished / STATE)
    (run / TABLE_FILE).symlink_to(finished / TABLE_FILE)
    followed = FollowedRun(run, "run")
    assert not followed.poll() and followed.run.log == [] and followed.run.measured == {}


@pytest.mark.parametrize("make, says", [(None, "does not exist"), ("file", "is a file")])
def test_a_folder_that_is_none_is_an_error(make, says, tmp_path):
    if make:
        (tmp_path / "run").touch()
    with pytest.raises((FileNotFoundError, ValueError), match=says):
        Live([tmp_path / "run"])


# The server ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(finished, looked):
    with LiveServer(Live([finished])) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    port = server.server_address[1]
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in (
        {"Host": f"127.0.0.1:{port}"} | {key.replace("_", "-"): value for key, value in headers.items()}
    ).items():
        if value is not None:
            connection.putheader(name, value.format(port=port))
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


@pytest.mark.quick
def test_the_page_and_its_rows_are_all_that_the_server_has(server):
    answer, html = ask(server, "/")
    assert answer.status == 200 and 'class="live"' in html and answer.headers["X-Frame-Options"] == "DENY"
    policy = answer.headers["Content-Security-Policy"]
    assert "connect-src 'self'" in policy and policy in html.replace("&#x27;", "'")
    data = data_of(html)
    query = f"/rows?after={data['after']}&session={data['session']}"
    assert json.loads(ask(server, query)[1])["changes"] == []
    assert len(json.loads(ask(server, f"/rows?after=0&session={data['session']}")[1])["changes"]) == data["after"]
    for path in ("/../../etc/passwd", "/%2e%2e/run.json", "/run.json", "/trainer_state.json", "//etc/passwd", "/rows/"):
        assert ask(server, path)[0].status == 404, path
    assert ask(server, "/rows?after=0&session=other")[0].status == 410
    assert ask(server, "/rows?after=0")[0].status == 410
    for after in ("-1", "x", "", "1e3", "9" * 30, "²"):
        assert ask(server, f"/rows?after={after.replace('²', '%C2%B2')}&session={data['session']}")[0].status == 400, after
    assert ask(server, "/", method="POST")[0].status == 501


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}", None, ""]
)
@pytest.mark.parametrize("path", ["/", "/rows?after=0&session=x"])
def test_another_name_for_this_machine_is_refused(host, path, server):
    answer, body = ask(server, path, Host=host)
    assert answer.status in (400, 421) and "radius" not in body


def test_a_page_of_another_site_cannot_ask(server):
    assert ask(server, "/", Host="localhost:{port}")[0].status == 200
    assert ask(server, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0].status == 403
    assert ask(server, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0].status == 200
    answer, _ = ask(server, "/", Sec_Fetch_Site="same-origin")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_it_listens_on_this_machine_alone_and_a_taken_port_is_an_error(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(OSError):
        LiveServer(server.live, server.server_address[1])


def test_a_log_that_makes_no_page_is_told_and_does_not_end_the_server(server, finished):
    state = json.loads((finished / STATE).read_text())
    (finished / STATE).write_text(json.dumps({"log_history": [{"step": 1, HELD_OUT_METRIC: 97.0}]}))
    answer, said = ask(server, "/")
    assert (
        answer.status == 500 and "an accuracy is at most 1" in said and answer.headers["Content-Type"].startswith("text/plain")
    )
    (finished / STATE).write_text(json.dumps(state))
    assert ask(server, "/")[0].status == 200


def test_a_reader_who_leaves_is_no_error(server, capfd):
    with socket.create_connection(server.server_address) as connection:
        port = server.server_address[1]
        connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
    assert ask(server, "/")[0].status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_says_nothing_does_not_hold_up_others(server):
    with socket.create_connection(server.server_address):
        assert ask(server, "/rows?after=0&session=x")[0].status == 410


def test_the_command_prints_the_address_and_ends_with_ctrl_c(finished):
    command = [sys.executable, "-W", "error", "-m", "hf_radial.cli", "report", "--live", str(finished), "--title", "Sums"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": dict(os.environ)}
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background of a shell ignore Ctrl+C
    with subprocess.Popen(command, **options, preexec_fn=listening) as process:
        try:
            line = process.stdout.readline()
            port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/  \(Ctrl\+C ends\)\n", line)[1])
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/")
            assert "<title>Sums</title>" in connection.getresponse().read().decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0 and process.stderr.read() == ""
        finally:
            process.kill()


def test_many_small_writes_while_it_is_read(looked, tmp_path):
    """A writer that replaces its files as `GeometryCallback` and `Trainer` do, and a reader that never waits."""
    run = tmp_path / "run"
    run.mkdir()
    live = Live([run])
    page = data_of(live.page())

    def write():
        table, log = Table(), []
        from hf_radial.geometry.reading import Reading

        for step in range(1, 60):
            table.add(step, None, [Reading("radius_mean", float(step), SITES[0])])
            table.write(run / TABLE_FILE)
            log += [{"step": step, TRAIN_METRIC: 1.0, HELD_OUT_METRIC: step / 100}]
            (run / STATE).write_text(json.dumps({"log_history": log}))  # not in one step

    writer = Thread(target=write)
    writer.start()
    after, changes = page["after"], []
    while writer.is_alive():
        found = live.rows(after)
        after, changes = found["after"], changes + found["changes"]
    writer.join()
    changes += live.rows(after)["changes"]
    lines = grown(page, changes)
    assert lines["radius_mean", SITES[0]][0] == list(range(1, 60))
    assert lines[f"log:{HELD_OUT_METRIC}", ""][0] == list(range(1, 60))
