"""The web server of the labelling page. It listens on 127.0.0.1 and answers requests of its own page only.

GET  /                  the page                 POST /api/join      a name -> an annotator
GET  /label/NAME        its scripts and style    POST /api/next      the next item of an annotator
GET  /clips/TOKEN       a clip, by ranges        POST /api/previous  the item before one
                                                 POST /api/save      stores an answer
"""

from __future__ import annotations

import mimetypes
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import resources
from pathlib import PurePath
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from halovid.labelling.answers import ASPECTS, KINDS, Mode, State
from halovid.labelling.database import Conflict
from halovid.labelling.service import MAX_NAME, Labelling, Refused
from halovid.store.errors import InputError
from halovid.store.runtime import console

HOST = "127.0.0.1"
_MAX_BODY = 2**20  # bytes; a clip with every patch marked in every aspect takes a tenth
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


_Number = Annotated[int, Field(ge=0, lt=2**63)]  # fits a database's integer column


class _Body(BaseModel):
    """The JSON body of a request: no unknown fields, no value converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Join(_Body):
    """The annotator's name."""

    name: str = Field(max_length=10 * MAX_NAME)


class Next(_Body):
    """The annotator who asks for an item, and the kind of item."""

    annotator: _Number
    mode: Mode


class Previous(Next):
    """Asks for the item that came before the item `before`, or by default for the last one."""

    before: str | None = None


class Save(_Body):
    """An answer made from revision `base`; every save has a new `save_id`, repeated if the same save is sent again."""

    annotator: _Number
    item: str
    state: State
    content: dict[str, Any]
    base: _Number
    save_id: Annotated[str, Field(min_length=8, max_length=64, pattern="^[0-9A-Za-z-]+$")]


def build_app(labelling: Labelling) -> FastAPI:
    """The application that serves the page, the clips and the requests of the page."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.middleware("http")(_guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    _add_pages(app, labelling)
    _add_api(app, labelling)
    _add_error_handlers(app)
    return app


def serve(labelling: Labelling, port: int) -> None:
    """Serves the page until it is interrupted.

    Raises:
        InputError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        raise InputError(f"port {port} can't be used ({error.strerror}); choose another with --port") from error
    address = f"http://{HOST}:{listener.getsockname()[1]}"
    console.print(f"label at {address} (end with Ctrl-C)", highlight=False, soft_wrap=True)
    config = uvicorn.Config(build_app(labelling), log_level="warning", server_header=False, timeout_graceful_shutdown=2)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    console.print("ended; all that was saved is kept")


def _add_pages(app: FastAPI, labelling: Labelling) -> None:
    """Adds the page, its scripts and style, and the clips."""
    environment = Environment(loader=PackageLoader("halovid"), autoescape=True, undefined=StrictUndefined)
    settings = labelling.settings
    facts = {
        "grid": settings.grid.shape,
        "aspects": ASPECTS,
        "kinds": [(aspect, KINDS[aspect]) for aspect in settings.patch_aspects],  # pairs keep their order in JSON
    }
    page = environment.get_template("label.html.j2").render(facts=facts, max_name=MAX_NAME)

    @app.get("/")
    def read_page() -> Response:
        return Response(page, media_type="text/html")

    folder = resources.files("halovid").joinpath("templates", "label")
    # read ahead: a request names a key of this dict, never a path
    assets = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}

    @app.get("/label/{name}")
    def read_asset(name: str) -> Response:
        if name not in assets:
            return JSONResponse({"detail": "there is no such file"}, 404)
        return Response(assets[name], media_type=_MEDIA_TYPES[PurePath(name).suffix])

    @app.get("/clips/{token}")
    def read_clip(token: str) -> Response:
        clip = labelling.clip(token)
        if clip is None or not clip.path.is_file():
            return JSONResponse({"detail": "there is no such clip"}, 404)
        media_type = mimetypes.guess_type(clip.path.name)[0] or ""
        if not media_type.startswith("video/") and media_type != "image/png":
            media_type = "application/octet-stream"  # a browser must never run a "clip" as a page or script
        return FileResponse(clip.path, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})


def _add_api(app: FastAPI, labelling: Labelling) -> None:
    """Adds the requests that the page's script sends."""

    # no async functions: they wait for the database, and FastAPI runs plain functions in threads
    @app.post("/api/join")
    def join(body: Join) -> dict[str, Any]:
        return labelling.join(body.name)

    @app.post("/api/next")
    def give_next(body: Next) -> dict[str, Any]:
        return labelling.next(body.annotator, body.mode)

    @app.post("/api/previous")
    def give_previous(body: Previous) -> dict[str, Any]:
        return labelling.previous(body.annotator, body.mode, body.before)

    @app.post("/api/save", response_model=None)
    def save(body: Save) -> dict[str, Any] | Response:
        try:
            return labelling.save(body.annotator, body.item, body.state, body.content, body.base, body.save_id)
        except Conflict as conflict:
            task = labelling.task_of(conflict, body.annotator)
            return JSONResponse({"detail": str(conflict), "task": task}, 409)


def _add_error_handlers(app: FastAPI) -> None:
    """Answers every error with one sentence, in the field `detail`."""

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]  # only place and message: the rejected value itself may not fit into JSON
        return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(SQLAlchemyError)
    async def unavailable(request: Request, error: SQLAlchemyError) -> Response:
        console.print(f"the database failed: {type(error).__name__}", style="red")
        return JSONResponse({"detail": "the database can't be reached or written just now"}, 503)


async def _guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuses requests of other sites' pages and too large bodies; adds the security headers to every answer."""
    refusal = _refusal(request)
    if refusal is None:
        response = await proceed(request)
    else:
        status, sentence = refusal
        response = JSONResponse({"detail": sentence}, status, {"Connection": "close"})  # the rest is not read
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _refusal(request: Request) -> tuple[int, str] | None:
    """The HTTP status and the sentence with which a request is refused; None for one that is let through."""
    headers = request.headers
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{headers.get('host')}":
        return 403, "requests come from this page only"
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none") and headers.get("sec-fetch-mode") != "navigate":
        return 403, "requests come from this page only"
    if request.method not in ("GET", "HEAD"):
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "requests hold JSON"
        length = headers.get("content-length", "")
        # a chunked body may be longer than its content-length says
        if not length.isdecimal() or "transfer-encoding" in headers:
            return 411, "requests tell their length"
        if int(length) > _MAX_BODY:
            return 413, f"requests hold at most {_MAX_BODY} bytes"
    return None
