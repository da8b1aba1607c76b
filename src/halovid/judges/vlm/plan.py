"""What judging would cost: the tokens, estimated, of all questions whose answers are not on disk yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from halovid.config.endpoints import ModelConfig
from halovid.config.vlm import VlmConfig
from halovid.judges.base import asked_rounds
from halovid.judges.vlm.judge import SECTION, how_asked
from halovid.judges.vlm.questions import TOKENS_PER_RATING, ClipQuestions, Question
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Request
from halovid.remote.answers import AnswerFolder, answer_folder
from halovid.remote.budget import price_call
from halovid.remote.client import Asking, known_answer
from halovid.remote.failures import NotKept
from halovid.remote.tokens import BYTES_PER_TOKEN
from halovid.store.errors import InputError


@dataclass
class ModelPlan:
    """What one model would be asked: counts of calls and tokens, and the bytes of all pictures sent."""

    model: ModelConfig
    answered: int = 0
    calls: int = 0
    text_tokens: int = 0
    picture_tokens: int = 0
    output_tokens: int = 0
    picture_bytes: int = 0

    @property
    def money(self) -> float | None:
        """The price of all calls; None when the recipe has no prices for the model."""
        if self.model.input_price is None or self.model.output_price is None:
            return None
        return price_call(self.model, self.text_tokens + self.picture_tokens, self.output_tokens).money

    def add(self, question: Question[object], answered: bool) -> None:
        """Counts a question."""
        if answered:
            self.answered += 1
            return
        self.calls += 1
        self.text_tokens += question.text_tokens()
        self.picture_tokens += question.picture_tokens(self.model)
        self.output_tokens += question.answer_tokens()
        self.picture_bytes += sum(len(picture.data) for picture in question.pictures)


def plan_calls(
    config: VlmConfig, grid: PatchGrid, geometry: LatentGeometry, requests: Iterable[Request]
) -> list[ModelPlan]:
    """The calls to each model, if all first attempts succeed.

    With the strategy coarse_to_fine it is the most that can be asked: a closer look at every time of every clip.

    Raises:
        InputError: an answer on disk can't be read.
    """
    asking, answers = how_asked(config), answer_folder(config, SECTION)
    plans = [ModelPlan(model) for model in config.models]
    for request in requests:
        questions = ClipQuestions(config, grid, geometry, request.video, request.prompt)
        asked: list[Question[object]] = [questions.about_clip()]
        if config.strategy != "boxes":
            for time in range(grid.t):
                asked += [question for _, question in questions.about_patches(time, asked_rounds(request, grid))]
        for plan in plans:
            _count(plan, asked, asking, answers)
    return plans


def _count(plan: ModelPlan, asked: list[Question[object]], asking: Asking, answers: AnswerFolder) -> None:
    """Counts each question once per vote."""
    for question in asked:
        for vote in range(plan.model.votes):
            key = asking.question_key(question, plan.model, vote)
            try:
                answered = known_answer(question, answers, key) is not None
            except NotKept as error:
                raise InputError(str(error)) from None
            plan.add(question, answered)


def plan_table(plans: list[ModelPlan], config: VlmConfig) -> Table:
    """What the terminal shows of a plan: a column for each model."""
    table = Table(title=f"calls of the judge, {config.strategy}, show={config.show}")
    table.add_column("model")
    for plan in plans:
        table.add_column(escape(plan.model.model), justify="right", overflow="fold")
    for name in ("calls", "answered on disk", "text tokens", "image tokens", "output tokens", "image bytes", "cost"):
        table.add_row(name, *(_cell(plan, name) for plan in plans))
    return table


def _cell(plan: ModelPlan, name: str) -> str:
    """A number of a plan as the table shows it."""
    if name == "cost":
        return "no price in the recipe" if plan.money is None else f"{plan.money:.2f}"
    counts = {
        "calls": plan.calls,
        "answered on disk": plan.answered,
        "text tokens": plan.text_tokens,
        "image tokens": plan.picture_tokens,
        "output tokens": plan.output_tokens,
        "image bytes": plan.picture_bytes,
    }
    return f"{counts[name]:,}"


def plan_notes(plans: list[ModelPlan], config: VlmConfig) -> str:
    """Where the numbers of a plan come from, and what they leave out."""
    rules = {
        "OpenAI's 512-pixel tiles" if plan.model.image_patch is None else f"squares of {plan.model.image_patch} pixels"
        for plan in plans
    }
    most = "At most: only suspicious times are looked at closely. " if config.strategy == "coarse_to_fine" else ""
    return (
        f"{most}Estimates: text at {BYTES_PER_TOKEN} bytes a token, images by {' or '.join(sorted(rules))}, "
        f"{TOKENS_PER_RATING} output tokens a rating. Repeated calls after faults come on top."
    )
