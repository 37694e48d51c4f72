"""How calls are sent again, and what refusals become: the same for both faces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import anyio
import httpx
import pytest

from service import errors
from service.client import AsyncClient, Client, Retry, UnexpectedAnswer, Unreachable
from service.client.calls import location
from service.client.refusals import by_code, failure, of_problem
from service.errors import Busy, Draining, Entry, JobFailed, NotFound, ServiceError
from service.rest import problems
from service.schemas import examples
from service.schemas.views import JobSummary
from tests.answers import alias_view, job_view

URL = "http://127.0.0.1:8000"
IMPATIENT = Retry(attempts=3, first_s=0.001, most_s=0.5)
Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler, **options: object) -> Client:
    return Client(URL, transport=httpx.MockTransport(handler), retry=IMPATIENT, **options)  # type: ignore[arg-type]


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"code": code, "status": status, "detail": "A sentence.", "errors": []}
    content = json.dumps(body).encode()
    return httpx.Response(status, headers={"Content-Type": "application/problem+json", **headers}, content=content)


def scripted(answers: list[httpx.Response | Exception], seen: list[httpx.Request]) -> Handler:
    """Gives these answers, one after the other."""
    script: Iterator[httpx.Response | Exception] = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = next(script)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handle


class TestBusyServers:
    def test_a_call_that_is_refused_for_now_is_sent_again_after_retry_after(self) -> None:
        seen: list[httpx.Request] = []
        answers = [problem(429, "queue-full", **{"Retry-After": "0"}), problem(503, "draining", **{"Retry-After": "0"})]
        with client_of(scripted([*answers, httpx.Response(200, json={"live": True})], seen)) as client:
            assert client.server.live() == {"live": True}

        assert len(seen) == 3

    def test_the_attempts_are_bounded(self) -> None:
        seen: list[httpx.Request] = []
        with (
            client_of(scripted([problem(429, "queue-full", **{"Retry-After": "0"})] * 9, seen)) as client,
            pytest.raises(errors.QueueFull) as caught,
        ):
            client.jobs.submit(examples.TRAIN)

        assert (len(seen), caught.value.retry_after_s) == (3, 0.0)

    def test_a_server_that_asks_for_more_patience_than_there_is_is_not_waited_for(self) -> None:
        seen: list[httpx.Request] = []
        with (
            client_of(scripted([problem(503, "draining", **{"Retry-After": "600"})], seen)) as client,
            pytest.raises(Draining),
        ):
            client.models.list()

        assert len(seen) == 1

    def test_a_store_error_without_retry_after_is_not_repeated(self) -> None:
        seen: list[httpx.Request] = []
        with (
            client_of(scripted([problem(503, "model-quarantined")], seen)) as client,
            pytest.raises(errors.ModelQuarantined),
        ):
            client.predict("quadratic", [[0.5]])

        assert len(seen) == 1


class TestLostConnections:
    def test_a_job_is_submitted_again_under_the_same_key(self) -> None:
        seen: list[httpx.Request] = []
        answer = httpx.Response(202, json=job_view())
        with client_of(scripted([httpx.ReadError("cut"), answer], seen)) as client:
            client.jobs.submit(examples.TRAIN)

        assert seen[0].headers["idempotency-key"] == seen[1].headers["idempotency-key"]
        assert seen[0].content == seen[1].content

    def test_two_submits_have_two_keys(self) -> None:
        seen: list[httpx.Request] = []
        with client_of(scripted([httpx.Response(202, json=job_view()) for _ in range(2)], seen)) as client:
            client.jobs.submit(examples.TRAIN)
            client.jobs.submit(examples.TRAIN)

        assert len({request.headers["idempotency-key"] for request in seen}) == 2

    def test_what_may_have_acted_and_must_not_act_twice_is_not_sent_again(self) -> None:
        seen: list[httpx.Request] = []
        with client_of(scripted([httpx.ReadError("cut")], seen)) as client, pytest.raises(Unreachable):
            client.aliases.rollback("quadratic", if_match='"1"')

        assert len(seen) == 1

    def test_what_was_never_sent_is_always_sent_again(self) -> None:
        seen: list[httpx.Request] = []
        answer = httpx.Response(200, json=alias_view(), headers={"ETag": '"2"'})
        with client_of(scripted([httpx.ConnectError("refused"), answer], seen)) as client:
            assert client.aliases.rollback("quadratic", if_match='"1"').etag == '"2"'

        assert len(seen) == 2

    def test_nobody_there_is_told_with_what_to_do(self) -> None:
        with (
            client_of(scripted([httpx.ConnectError("refused")] * 3, [])) as client,
            pytest.raises(Unreachable, match=r"No server answers at http://127.0.0.1:8000.") as caught,
        ):
            client.models.list()

        assert "modelyard serve" in str(caught.value.hint)


class TestRefusals:
    def test_every_problem_becomes_an_exception_with_its_code(self) -> None:
        for code, (status, sentence) in problems.catalogue().items():
            found = of_problem({"code": code, "status": status, "detail": sentence})

            assert found.code == code
            assert found.message == sentence

    def test_a_class_of_its_own_stands_for_every_code_of_the_service(self) -> None:
        found = by_code()

        assert found["not-found"] is NotFound
        assert found["overloaded"] is errors.Overloaded
        assert found["validation-failed"] is errors.ValidationFailed
        assert found["body-too-large"] is errors.BodyTooLarge
        assert found["conflict"] is errors.Conflict
        assert not set(found.values()) & {ServiceError, Busy}

    def test_entries_hints_and_limits_come_back(self) -> None:
        entry = Entry("/a/b", "invalid", "It is wrong.", hint="Mend it.", expected="1", got="2")
        body = {
            "code": "batch-too-large",
            "detail": "Too much.",
            "errors": [entry.to_dict()],
            "limit": {"name": "rows"},
        }
        found = of_problem({**body, "more": 3})

        assert (found.errors, found.more, found.limit, found.hint) == ((entry,), 3, {"name": "rows"}, "Mend it.")

    def test_the_text_of_an_exception_has_the_first_mistakes_with_their_places(self) -> None:
        entries = [
            {"pointer": f"/inputs/{place}", "code": "invalid", "detail": "It is wrong.", "expected": "a number"}
            for place in range(7)
        ]
        body = {"code": "validation-failed", "detail": "The body is wrong.", "errors": entries, "more": 2}
        found = of_problem(body)

        assert str(found).splitlines() == [
            "The body is wrong.",
            *(f"/inputs/{place}: It is wrong. Expected a number." for place in range(5)),
            "And 4 more mistakes, not shown.",
        ]
        assert found.message == "The body is wrong."
        assert len(found.errors) == 7

    def test_a_mistake_that_is_all_there_is_to_say_is_said_once(self) -> None:
        entry = {"pointer": "/model", "code": "not-found", "detail": "There is no such model.", "hint": "Train it."}

        assert str(of_problem({"code": "not-found", "detail": "There is no such model.", "errors": [entry]})) == (
            "/model: There is no such model. Train it."
        )
        assert str(of_problem({"code": "not-found", "detail": "It is gone."})) == "It is gone."

    def test_what_is_no_problem_of_the_service_is_told_as_such(self) -> None:
        page = httpx.Response(502, text="<h1>Bad gateway</h1>")
        with client_of(scripted([page], [])) as client, pytest.raises(UnexpectedAnswer, match="502 Bad Gateway"):
            client.models.list()

    def test_a_success_that_cannot_be_read_is_told_as_such(self) -> None:
        with client_of(scripted([httpx.Response(200, json=[])], [])) as client, pytest.raises(UnexpectedAnswer):
            client.models.list()

    def test_a_failed_job_says_why(self) -> None:
        job = {
            **job_view(),
            "state": "failed",
            "error": {"code": "data_error", "detail": "Row 3 is broken.", "hint": "x"},
        }
        found = failure(JobSummary.model_validate(job))

        assert isinstance(found, JobFailed)
        assert (found.failure, found.message, found.hint) == ("data_error", "Row 3 is broken.", "x")
        assert str(found) == "Row 3 is broken. x"


class TestWhoAsksWhom:
    def test_the_key_and_the_address_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODELYARD_URL", "http://yard.example:1234/")
        monkeypatch.setenv("MODELYARD_API_KEY", "msk_secret")
        seen: list[httpx.Request] = []
        handler = scripted([httpx.Response(200, json={})], seen)
        with Client(transport=httpx.MockTransport(handler)) as client:
            client.server.live()

        assert str(seen[0].url) == "http://yard.example:1234/livez"
        assert seen[0].headers["authorization"] == "Bearer msk_secret"

    @pytest.mark.parametrize("url", ["ftp://yard", "yard:8000", "http://", "  "])
    def test_what_is_no_address_is_refused_when_the_client_is_made(self, url: str) -> None:
        with pytest.raises(ValueError, match="is no address of a server"):
            location(url, {})

    def test_an_httpx_client_that_is_given_is_used_and_left_open(self) -> None:
        http = httpx.Client(
            transport=httpx.MockTransport(lambda _: httpx.Response(200, json={})), base_url="http://inner"
        )
        with Client(http=http) as client:
            client.server.live()

        assert client.url == "http://inner"
        assert not http.is_closed
        http.close()


async def application(scope: dict[str, str], receive: Callable, send: Callable) -> None:
    """Answers every request with its method and path."""
    await receive()
    content = json.dumps({"asked": f"{scope['method']} {scope['path']}"}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": content})


def test_both_faces_talk_to_an_asgi_application_without_a_socket() -> None:
    async def ask() -> dict[str, str]:
        async with AsyncClient(app=application) as client:
            return await client.server.live()

    with Client(app=application) as client:
        assert client.server.live() == anyio.run(ask) == {"asked": "GET /livez"}
