"""One call to an OpenAI-compatible endpoint: the reply, or in plain words why there is none.

Nothing that a server sends is trusted: size and time are bounded, redirects are not followed, and the key is removed
from every text before anybody sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import openai
from aiolimiter import AsyncLimiter
from pydantic import BaseModel, ValidationError

from halovid.config.endpoints import CallConfig, ModelConfig
from halovid.remote.failures import Stopped, Trouble, Unanswered
from halovid.remote.redaction import find_key, quoted, without_key
from halovid.store.errors import InputError

_MAX_BODY = 8_000_000  # bytes of a reply; usual ones have a few thousand
_MAX_TOKENS = 100_000_000  # of a call; a server that reports more is not believed
_MAX_WAIT = 366 * 86_400  # seconds; a server that asks for more is not believed
_LOCAL = ("localhost", "127.0.0.1", "[::1]")  # hosts that are never reached through a proxy
_ENVIRONMENT = (  # variables that a connection depends on, besides the key
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"),
)
_FILTERED = (
    "content_filter",
    "content_policy_violation",
)  # error codes of OpenAI and Azure for a question that their filters stop
_TRANSIENT = (408, 409, 425, 429)  # and all from 500 on: another attempt may succeed


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    problem: why the text is no answer, None when it may be one.
    usage: input and output tokens as the server counted them; None when it did not.
    refused: the model or a filter will not answer because of what the question holds.
    """

    text: str
    problem: str | None
    usage: tuple[int, int] | None
    refused: bool = False


class Endpoint:
    """Calls one model, within its rate limits; a call holds `turn` while it waits for them.

    Args:
        section: of the recipe that names the model, for messages.
    """

    def __init__(self, config: CallConfig, model: ModelConfig, section: str) -> None:
        self.model, self.turn = model, asyncio.Lock()
        self._config, self._section, self._key = config, section, ""
        self._client: openai.AsyncOpenAI | None = None
        self._resume_at = 0.0
        per_minute = config.requests_per_minute
        self._calls = AsyncLimiter(1, 60 / per_minute) if per_minute else None  # evenly spaced, without bursts
        self._tokens = AsyncLimiter(config.tokens_per_minute) if config.tokens_per_minute else None

    async def ready(self, tokens: int) -> None:
        """Waits until a call of so many tokens may be made, by rate limits and by pauses that the server wants."""
        now = asyncio.get_running_loop().time
        if self._tokens:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))
        while True:  # a pause may begin while the call waits for the rate limit
            while (left := self._resume_at - now()) > 0:
                await asyncio.sleep(left)
            if self._calls:
                await self._calls.acquire()
            if self._resume_at <= now():
                return

    async def call(self, body: dict[str, Any]) -> Reply:
        """The reply to a chat completion request.

        Raises:
            Trouble: the server failed, or sent something that is no reply.
            Unanswered: the server will not answer this question.
            Stopped: the server will answer no question.
            InputError: the key is missing, or something else in the environment can't be used.
        """
        create: Any = self._open().chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._config.timeout):
                raw = await create(**body)
            return self._read(raw.content)
        except (TimeoutError, openai.APITimeoutError):
            raise Trouble(f"no answer within {self._config.timeout:g} s", paid=True) from None
        except openai.APIStatusError as error:
            raise self._explain(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            reason = f"the connection failed ({type(cause).__name__}: {quoted(str(cause), self._key)})"
            raise Trouble(reason, paid=not isinstance(cause, httpx2.ConnectError)) from None

    def quote(self, text: str, longest: int) -> str:
        """The beginning of a text that may repeat what the server said, on one line, without the key."""
        return quoted(text, self._key, longest)

    async def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    def _open(self) -> openai.AsyncOpenAI:
        """The client of the endpoint, made at the first call."""
        if self._client is None:
            self._key = find_key(self.model, self._section)
            try:
                self._client = _connect(self.model, self._key, self._config.timeout)
            except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:
                # the error's text is not shown: a proxy's address may hold a secret
                names = sorted(name for name in os.environ if name.upper() in _ENVIRONMENT)
                raise InputError(
                    f"can't open connections to {self.model.base_url} ({type(error).__name__}): mend base_url or what "
                    f"does not fit in the environment, where these are set: {', '.join(names) or 'none'}"
                ) from None
        return self._client

    def _read(self, content: bytes) -> Reply:
        """The reply in the body of a response; Trouble when it is no chat completion."""
        try:
            body = _Body.model_validate_json(content)
        except ValidationError:
            raise Trouble("the reply is no chat completion", paid=True) from None
        choice = body.choices[0] if body.choices else None
        if choice is None:
            raise Trouble("the reply holds no choice", paid=True)
        text = without_key(choice.message.content or "", self._key)
        problem = None
        if choice.message.refusal:
            problem = f"the model refused: {quoted(choice.message.refusal, self._key)}"
        elif choice.finish_reason == "content_filter":
            problem = "the answer was stopped by a content filter"
        elif choice.finish_reason == "length":
            problem = f"the answer was cut off: it is longer than {self._section}.max_output_tokens; make it shorter"
        elif not text.strip():
            problem = "the answer was empty"
        refused = bool(choice.message.refusal) or choice.finish_reason == "content_filter"
        return Reply(text, problem, _usage(body.usage), refused)

    def _explain(self, error: openai.APIStatusError) -> Exception:
        """The exception that tells what a status other than 2xx means."""
        code, model = error.status_code, self.model
        where = f"{model.base_url} (HTTP {code})"
        if code in (401, 403):  # the server's own words are not shown: they may hold a part of the key
            key = f"the key in {model.key_variable}" if model.key_variable else "calls without a key"
            return Stopped(f"{where} refuses {key} for model {model.model!r}; check the key and its rights", fatal=True)
        if code == 404:
            return Stopped(
                f"{where} has no model {model.model!r}; check {self._section}.model and base_url", fatal=True
            )
        if 300 <= code < 400:
            return Stopped(f"{where} redirects, which is not followed; set base_url to the final address", fatal=True)
        if error.code == "insufficient_quota":
            return Stopped(f"{where} says that the quota of the account is spent")
        reason = f"HTTP {code}: {quoted(_error_message(error), self._key)}"
        if code not in _TRANSIENT and code < 500:
            return Unanswered(reason, refused=error.code in _FILTERED)
        wait = _retry_after(error.response.headers)
        if wait is not None and wait > self._config.longest_wait:
            return Stopped(f"{reason}; the server asks to wait {wait:.0f} s, longer than {self._section}.longest_wait")
        if code == 429 and wait is not None:
            self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + wait)
        return Trouble(reason, wait)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Body(BaseModel):
    """The parts of a chat completion that are read."""

    choices: list[_Choice]
    usage: Any = None


class _BodyTooLarge(httpx2.ReadError):
    """The reply is larger than any answer could be."""


class _BoundedStream(httpx2.AsyncByteStream):
    """A body that ends with an error when it grows too large."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > _MAX_BODY:
                raise _BodyTooLarge(f"the reply is larger than {_MAX_BODY} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound_body(response: httpx2.Response) -> None:
    """Called before a body is read. The character set that it names is ignored: some codecs fail on any text."""
    response.encoding = "utf-8"
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.ReadError("the reply is compressed, which was not asked for")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _BoundedStream(response.stream)


def _error_message(error: openai.APIStatusError) -> str:
    """The server's message about an error: in the usual form of such messages, else the whole body."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return message if isinstance(message, str) else error.response.text


def _connect(model: ModelConfig, key: str, timeout: float) -> openai.AsyncOpenAI:
    """A client with the environment's proxies, certificates and OPENAI_* settings; raises what is wrong with them."""
    transport = openai.DefaultAsyncHttpxClient(
        follow_redirects=False,
        event_hooks={"response": [_bound_body]},
        mounts={f"all://{host}": None for host in _LOCAL},
    )
    client = openai.AsyncOpenAI(
        api_key=key or "none",
        base_url=model.base_url,
        max_retries=0,
        timeout=timeout,
        http_client=transport,
        default_headers={"Accept-Encoding": "identity"},  # the size of what is compressed can't be bounded
    )
    headers = {name: text for name, text in client.default_headers.items() if isinstance(text, str)}
    httpx2.Headers(headers)  # raises here, not in every call, when a text in OPENAI_* can't be sent
    return client


def _usage(raw: Any) -> tuple[int, int] | None:
    """Input and output tokens as the server reports them; None when it does not, or not in a believable way."""
    if not isinstance(raw, dict):
        return None
    inputs, outputs = raw.get("prompt_tokens"), raw.get("completion_tokens")
    if type(inputs) is not int or type(outputs) is not int:
        return None
    return (inputs, outputs) if 0 <= min(inputs, outputs) <= max(inputs, outputs) <= _MAX_TOKENS else None


def _retry_after(headers: Any) -> float | None:
    """Seconds to wait, from headers with milliseconds, seconds or a date; None without any that makes sense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            wait = float(headers.get(name, "")) * unit
            return wait if 0 <= wait <= _MAX_WAIT else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        wait = max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())
        return wait if wait <= _MAX_WAIT else None
    return None
