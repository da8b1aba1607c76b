"""The web server of the labelling page: 127.0.0.1 only, same origin only, nothing from outside.

GET  /                  the page                 POST /api/join      a name -> an annotator
GET  /label/NAME        its scripts and style    POST /api/next      the next item of an annotator
GET  /clips/TOKEN       a clip, by ranges        POST /api/previous  the item before one
                                                 POST /api/save      keeps an answer
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
_TYPES = {".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


_Number = Annotated[int, Field(ge=0, lt=2**63)]  # what a database can hold


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Join(_Body):
    """Who wants to label."""

    name: str = Field(max_length=10 * MAX_NAME)


class Next(_Body):
    """Who asks for work, and of which kind."""

    annotator: _Number
    mode: Mode


class Previous(Next):
    """The same; `before` is the item at hand."""

    before: str | None = None


class Save(_Body):
    """An answer: based on revision `base`; `save_id` is new for every save and the same when it is sent again."""

    annotator: _Number
    item: str
    state: State
    content: dict[str, Any]
    base: _Number
    save_id: Annotated[str, Field(min_length=8, max_length=64, pattern="^[0-9A-Za-z-]+$")]


def build_app(labelling: Labelling) -> FastAPI:
    """The application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.middleware("http")(_guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    _add_pages(app, labelling)
    _add_api(app, labelling)
    _add_troubles(app)
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
    parts = {part.name: part.read_text(encoding="utf-8") for part in folder.iterdir()}  # looked up, not opened

    @app.get("/label/{name}")
    def read_part(name: str) -> Response:
        if name not in parts:
            return JSONResponse({"detail": "there is no such file"}, 404)
        return Response(parts[name], media_type=_TYPES[PurePath(name).suffix])

    @app.get("/clips/{token}")
    def read_clip(token: str) -> Response:
        clip = labelling.clip(token)
        if clip is None or not clip.path.is_file():
            return JSONResponse({"detail": "there is no such clip"}, 404)
        kind = mimetypes.guess_type(clip.path.name)[0] or ""
        kind = kind if kind.startswith("video/") else "application/octet-stream"  # never a page or a script
        return FileResponse(clip.path, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


def _add_api(app: FastAPI, labelling: Labelling) -> None:
    # plain functions: FastAPI runs them in threads, as the database makes them wait
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


def _add_troubles(app: FastAPI) -> None:
    """One sentence for whatever goes wrong."""

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]  # not all of it: what came may be no JSON value
        return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(SQLAlchemyError)
    async def unavailable(request: Request, error: SQLAlchemyError) -> Response:
        console.print(f"the database failed: {type(error).__name__}", style="red")
        return JSONResponse({"detail": "the database can't be reached or written just now"}, 503)


async def _guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    """Turns away what other sites' pages send, and what is too large; every answer gets the protecting headers."""
    objection = _objection(request)
    if objection is None:
        response = await proceed(request)
    else:
        status, sentence = objection
        response = JSONResponse({"detail": sentence}, status, {"Connection": "close"})  # what is still sent is not read
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _objection(request: Request) -> tuple[int, str] | None:
    """Why a request is turned away, if it is: status and sentence."""
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
        if not length.isdecimal() or "transfer-encoding" in headers:  # of a body in chunks the length says nothing
            return 411, "requests tell their length"
        if int(length) > _MAX_BODY:
            return 413, f"requests hold at most {_MAX_BODY} bytes"
    return None
