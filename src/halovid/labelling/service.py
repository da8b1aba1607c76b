"""Labelling as the page sees it: gives out items, saves answers, counts progress."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from halovid.labelling import assignment
from halovid.labelling.answers import CONTENT, Comparison, Content, Mode, State
from halovid.labelling.assignment import Item
from halovid.labelling.database import (
    Answer,
    Conflict,
    LabelDatabase,
    Settings,
    answers_of_kind,
    find_answer,
    take_turn,
)
from halovid.labelling.material import LabelClip, Material, patch_frames
from halovid.store.video import PICTURE_SUFFIX

LEASE = 30 * 60  # seconds without a save after which an open item may be given to somebody else
MAX_NAME = 80


class Refused(ValueError):
    """A request that is refused; the message says why."""


@dataclass(frozen=True)
class Progress:
    """How many items an annotator has finished, has skipped, and can still label."""

    done: int
    skipped: int
    left: int


class Labelling:
    """The labelling of one run: gives annotators items of `material` and keeps their answers in the database."""

    def __init__(self, database: LabelDatabase, material: Material, settings: Settings) -> None:
        self._database, self._material, self.settings = database, material, settings
        self._by_token = {clip.token: clip for clip in material.clips.values()}
        self._items = {self._item_token(item): item for mode in CONTENT for item in material.items(mode)}
        self._common = {
            mode: assignment.common_items(material.items(mode), settings.overlap, settings.seed) for mode in CONTENT
        }
        self._orders: dict[tuple[Mode, str], list[Item]] = {}  # sorted once: it takes a while for many clips

    def clip(self, token: str) -> LabelClip | None:
        """The clip that annotators know by this token."""
        return self._by_token.get(token)

    def join(self, name: str) -> dict[str, Any]:
        """An annotator's id, name and progress; the same name gives the same annotator.

        Raises:
            Refused: the name is empty, too long, or holds characters that can't be shown.
        """
        tidy_name = " ".join(unicodedata.normalize("NFC", name).split())
        if not 1 <= len(tidy_name) <= MAX_NAME:
            raise Refused(f"the name has {len(tidy_name)} characters; allowed are 1 to {MAX_NAME}")
        kinds = {unicodedata.category(character) for character in tidy_name}
        if kinds & {"Cc", "Cs"} or kinds <= {"Cf", "Zs"}:  # a name of invisible characters looks empty
            raise Refused("the name holds characters that can't be shown")
        annotator_id = self._database.join(tidy_name)
        with self._database.transaction() as session:
            progress = {mode: self._progress(session, mode, annotator_id, tidy_name) for mode in CONTENT}
        return {"annotator": annotator_id, "name": tidy_name, "progress": progress}

    def next(self, annotator_id: int, mode: Mode) -> dict[str, Any]:
        """{task, progress}: the annotator's open item or else a new one; `task` is None when no item is left.

        Asking again gives the same item until it is done or skipped.
        """
        name = self._annotator_name(annotator_id)
        with self._database.transaction() as session:
            take_turn(session)
            answers = answers_of_kind(session, mode == "compare")
            remaining = self._remaining(mode, answers, annotator_id, name)
            started = (answer for answer in answers if answer.annotator_id == annotator_id and answer.state == "open")
            answer = next(started, None)
            if answer is None or self._item_token(answer.item) not in self._items:
                answer = self._assign(session, annotator_id, remaining[0]) if remaining else None
            progress = self._progress(session, mode, annotator_id, name)
        return {"task": answer and self._task(answer, name), "progress": progress}

    def previous(self, annotator_id: int, mode: Mode, before: str | None) -> dict[str, Any]:
        """{task, progress}: the item that the annotator was given before item `before`, or by default the last one.

        `task` is None when there is no earlier item.
        """
        name = self._annotator_name(annotator_id)
        with self._database.transaction() as session:
            assigned = [
                answer
                for answer in answers_of_kind(session, mode == "compare")
                if answer.annotator_id == annotator_id and self._item_token(answer.item) in self._items
            ]
            tokens = [self._item_token(answer.item) for answer in assigned]
            earlier = assigned[: tokens.index(before)] if before in tokens else assigned
            progress = self._progress(session, mode, annotator_id, name)
        return {"task": self._task(earlier[-1], name) if earlier else None, "progress": progress}

    def save(
        self, annotator_id: int, token: str, state: State, content: dict[str, Any], base: int, save_id: str
    ) -> dict[str, Any]:
        """{revision, progress}: stores an annotator's answer, which is on the disk when this returns.

        Raises:
            Refused: the annotator was never given the item, or the content does not fit it.
            Conflict: another tab has saved the item meanwhile.
        """
        name = self._annotator_name(annotator_id)
        item = self._items.get(token)
        if item is None:
            raise Refused("there is no such item")
        mode: Mode = "compare" if item.is_pair else "rate"
        checked = self._validate(mode, state, content)
        if isinstance(checked, Comparison) and assignment.is_swapped(item, self.settings.seed, name):
            checked = checked.swapped()
        try:
            answer = self._database.save(annotator_id, item, state, checked.model_dump(mode="json"), base, save_id)
        except LookupError as error:
            raise Refused(str(error)) from error
        with self._database.transaction() as session:
            progress = self._progress(session, mode, annotator_id, name)
        return {"revision": answer.revision, "progress": progress}

    def task_of(self, conflict: Conflict, annotator_id: int) -> dict[str, Any]:
        """The stored answer that a save was in conflict with, as the page shows it."""
        return self._task(conflict.answer, self._annotator_name(annotator_id))

    def _validate(self, mode: Mode, state: State, content: dict[str, Any]) -> Content:
        """The content as an answer of this mode; Refused when it is malformed or, if finished, incomplete."""
        try:
            checked = CONTENT[mode].model_validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise Refused(f"{field or 'content'}: {first['msg']}") from error
        problem = checked.problem(
            self.settings.grid.num_patches, tuple(self.settings.patch_aspects), finished=state == "done"
        )
        if problem:
            raise Refused(problem)
        return checked

    def _annotator_name(self, annotator_id: int) -> str:
        """The name of the annotator with this id; Refused when there is none."""
        name = self._database.name(annotator_id)
        if name is None:
            raise Refused("this annotator is not known here; enter your name again")
        return name

    def _assign(self, session: Session, annotator_id: int, item: Item) -> Answer:
        """Gives an item to an annotator: their open answer to it, or a new empty one."""
        answer = find_answer(session, annotator_id, item)
        if answer is None:
            answer = Answer(
                annotator_id=annotator_id,
                first=item.first,
                second=item.second,
                prompt_id=self._material.clips[item.first].prompt_id,
                state="open",
                content={},
                revision=0,
                save_id="",
                saved_at=time.time(),
            )
            session.add(answer)
            session.flush()
        return answer

    def _remaining(self, mode: Mode, answers: Sequence[Answer], annotator_id: int, name: str) -> list[Item]:
        """The items that an annotator can still label, in their order; the one they have open is among them."""
        states = {answer.item: answer.state for answer in answers if answer.annotator_id == annotator_id}
        finished = {item for item, state in states.items() if state != "open"}
        lease_start = time.time() - LEASE
        taken_by_others = {
            answer.item
            for answer in answers
            if answer.annotator_id != annotator_id
            and (answer.state == "done" or (answer.state == "open" and answer.saved_at > lease_start))
        }
        items, common = self._material.items(mode), self._common[mode]
        if (mode, name) not in self._orders:
            self._orders[mode, name] = assignment.in_order(items, common, self.settings.seed, name)
        ordered = self._orders[mode, name]
        return assignment.remaining_items(ordered, common, finished, taken_by_others - states.keys())

    def _progress(self, session: Session, mode: Mode, annotator_id: int, name: str) -> Progress:
        """How far an annotator is with the items of a mode."""
        answers = answers_of_kind(session, mode == "compare")
        states = [answer.state for answer in answers if answer.annotator_id == annotator_id]
        left = len(self._remaining(mode, answers, annotator_id, name))
        return Progress(states.count("done"), states.count("skipped"), left)

    def _item_token(self, item: Item) -> str:
        """The name of an item for annotators: the tokens of its clips, which do not tell where the clips come from."""
        clips = (self._material.clips.get(clip_id) for clip_id in (item.first, item.second) if clip_id)
        return "-".join(clip.token if clip else "?" for clip in clips)

    def _task(self, answer: Answer, name: str) -> dict[str, Any]:
        """An item as the page shows it: the clips from left to right, and the annotator's answer so far."""
        item, content = answer.item, dict(answer.content)
        clips = [self._material.clips[clip_id] for clip_id in (item.first, item.second) if clip_id]
        if item.is_pair and assignment.is_swapped(item, self.settings.seed, name):
            clips.reverse()
            content = Comparison.model_validate_json(json.dumps(content)).swapped().model_dump(mode="json")
        return {
            "item": self._item_token(item),
            "state": answer.state,
            "revision": answer.revision,
            "save_id": answer.save_id,
            "content": content,
            "prompt": clips[0].prompt,
            "clips": [self._clip_view(clip) for clip in clips],
        }

    def _clip_view(self, clip: LabelClip) -> dict[str, Any]:
        """A clip as the page needs it: address, size, frame rate, and the patches of every frame."""
        facts = {name: getattr(clip.facts, name) for name in ("num_frames", "fps", "width", "height")}
        is_picture = clip.path.suffix == PICTURE_SUFFIX
        patches = patch_frames(clip, self.settings.grid)
        return {"url": f"/clips/{clip.token}", "is_picture": is_picture, **facts, **patches}
