"""What a browser may ask of a server on this machine; asked of the whole server, over HTTP."""

import http.client
import json
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest

from tubelet.web.guard import Guard

UPLOAD = {"Content-Type": "multipart/form-data; boundary=x"}


def ask(served, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text; the path goes out as it is written."""
    address = urlsplit(served.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def form(name: str, content: bytes) -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:7860", "192.168.0.7:7860", "0.0.0.0", "[::2]"]
)
def test_other_hosts_are_refused_as_dns_rebinding_needs_them(host, served):
    status, text = ask(served, "/", Host=host)
    assert status == 403
    assert host in text
    assert "ssh -L" in text


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:99"])
def test_names_of_this_machine_are_fine_at_any_port_as_ssh_forwards_them(host, served):
    assert ask(served, "/config", Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://[x"])
def test_pages_of_others_may_not_ask(origin, served):
    assert ask(served, "/gradio_api/queue/join", "POST", b"{}", Origin=origin)[0] == 403
    assert ask(served, "/config", Origin=served.url)[0] == 200


def test_pages_of_others_may_not_show_these_within_themselves(served):
    with urlopen(served.url, timeout=20) as answer:
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'self'"


def test_files_of_this_machine_are_not_given_out(served):
    video = served.clips / "left" / "left_0001.mp4"
    inside = next(served.temporary.glob("tubelet-serve-*"))
    paths = ["/etc/passwd", "runs/low/run.json", video, served.clips / "out.mp4", inside / "../../../etc/passwd"]
    for path in [*paths, "../runs/low/run.json", "http://127.0.0.1:9/x", "file:///etc/passwd", "", "\0"]:
        for written in {quote(str(path)), quote(str(path), safe="")}:
            for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/proxy="):
                status, text = ask(served, route + written)
                assert status in (403, 404), (route, path)
                assert "root:" not in text


def test_what_gradio_has_and_no_page_needs_is_closed(served):
    for path in ("/gradio_api/vibe-edit", "/gradio_api/process_recording", "/gradio_api/run-history/connect"):
        assert ask(served, path, "POST", b"{}")[0] == 403
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert "swagger" not in ask(served, path)[1].lower()


def test_an_upload_over_the_limit_is_refused_and_nothing_of_it_stays(served):
    before = {*served.temporary.rglob("*")}
    status, text = ask(served, "/gradio_api/upload", "POST", form("big.mp4", bytes(2**20 + 1)), **UPLOAD)
    assert status == 413
    assert "exceeded maximum allowed size of 1048576 bytes" in text
    assert {path for path in {*served.temporary.rglob("*")} - before if path.is_file()} == set()


def test_a_name_of_an_upload_does_not_lead_elsewhere(served):
    status, text = ask(served, "/gradio_api/upload", "POST", form("../../../../evil.mp4", b"x"), **UPLOAD)
    assert status == 200
    [path] = json.loads(text)
    assert path.startswith(str(served.temporary))
    assert ".." not in path


# ---------------------------------------------------------------------------- the functions behind the pages


def call(served, function: int, data: list, session: str = "test") -> str:
    """What a page's function answers to whoever calls it directly."""
    body = json.dumps({"fn_index": function, "data": data, "session_hash": session}).encode()
    status, text = ask(served, "/gradio_api/queue/join", "POST", body, Content_Type="application/json")
    if status != 200:
        return text
    return ask(served, f"/gradio_api/queue/data?session_hash={session}")[1]


def functions(served, path: str, name: str) -> list[dict]:
    config = json.loads(ask(served, "/config")[1])
    ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    return [each for each in config["dependencies"] if name in [ids.get(i) for i in each["inputs"]]]


@pytest.mark.parametrize("path", ["/etc/passwd", "runs/low/run.json", "clips/../secret/right/right_0001.mp4"])
def test_functions_called_directly_take_no_paths(path, served):
    drawing = [each for each in functions(served, "/", "video") if len(each["inputs"]) == 10]
    assert drawing
    rest = [["tube"], 0.9, False, "vectors", 16, 4, 64, 16, 0]
    for each in drawing:
        answer = call(served, each["id"], [path, *rest])
        assert "not in the list of choices" in answer or "no video" in answer
        assert "data:image" not in answer


@pytest.mark.parametrize("name", ["../runs/low", "/etc"])
def test_runs_called_directly_take_no_paths(name, served):
    for each in functions(served, "/runs", "runs"):
        data = [[name], ""][: len(each["inputs"])]
        answer = call(served, each["id"], data)
        assert "not in the list of choices" in answer or "no run" in answer


def test_an_upload_that_is_none_is_refused(served):
    video = str(served.clips / "left" / "left_0001.mp4")
    uploads = functions(served, "/", "upload")
    assert uploads
    for each in uploads:
        for path in (video, "/etc/passwd", "http://127.0.0.1:9/x.mp4"):
            answer = call(served, each["id"], [{"path": path, "meta": {"_type": "gradio.FileData"}}])
            assert f"{path!r} is no upload" in answer
    assert (served.clips / "left" / "left_0001.mp4").exists()


@pytest.mark.parametrize("route", ["run/upload", "api/upload", "call/upload", "call/v2/upload"])
def test_no_way_to_a_function_is_one_of_uploads(route, served):
    before = {*served.temporary.rglob("*")}
    config = json.loads(ask(served, "/config")[1])
    at_once = [each for each in config["dependencies"] if each["queue"] is False and each["inputs"]]
    assert at_once
    for each in at_once:  # a file that is copied into the server's folder would be given out from there
        files = [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}] * len(each["inputs"])
        body = json.dumps({"fn_index": each["id"], "data": files, "session_hash": "way"}).encode()
        status, text = ask(served, f"/gradio_api/{route}", "POST", body, Content_Type="application/json")
        assert (status, "'/etc/passwd' is no upload" in text) == (403, True)
    assert {*served.temporary.rglob("*")} == before


def test_what_is_asked_is_short_and_json(served):
    kind = {"Content_Type": "application/json"}
    assert ask(served, "/gradio_api/queue/join", "POST", b'"' + bytes(2**20) + b'"', **kind)[0] == 403
    assert ask(served, "/gradio_api/queue/join", "POST", b"[" * 100_000, **kind)[0] == 403


async def nobody(*_) -> None:
    raise AssertionError("asked")


def test_the_guard_without_a_server(tmp_path):
    guard = Guard(nobody, tmp_path)
    (tmp_path / "mine.png").touch()
    (tmp_path / "link.png").symlink_to("/etc/passwd")
    here = {"host": "127.0.0.1:7860"}
    assert guard.refused(f"/gradio_api/file={tmp_path}/mine.png", here) is None
    assert guard.refused(f"/gradio_api/file={tmp_path}/link.png", here) is not None
    assert guard.refused("/", {}) is not None
    assert guard.refused("/", {"host": "[bad"}) is not None
