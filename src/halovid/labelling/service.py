"""The work of labelling: who gets which item next, what is kept, and how far everybody is."""

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

LEASE = 30 * 60  # seconds without a save after which an item that was given out may go to somebody else
MAX_NAME = 80


class Refused(ValueError):
    """A request that can't be met; the message says why."""


@dataclass(frozen=True)
class Progress:
    """How far an annotator is, in items: finished, passed over, and left for them to do."""

    done: int
    skipped: int
    left: int


class Labelling:
    """The labelling of one run: `material` on one side, the database on the other."""

    def __init__(self, database: LabelDatabase, material: Material, settings: Settings) -> None:
        self._database, self._material, self.settings = database, material, settings
        self._by_token = {clip.token: clip for clip in material.clips.values()}
        self._items = {self._name(item): item for mode in CONTENT for item in material.items(mode)}
        self._common = {
            mode: assignment.common_items(material.items(mode), settings.overlap, settings.seed) for mode in CONTENT
        }
        self._orders: dict[tuple[Mode, str], list[Item]] = {}  # kept, as they take a while for many clips

    def clip(self, token: str) -> LabelClip | None:
        """The clip that annotators know by this token."""
        return self._by_token.get(token)

    def join(self, name: str) -> dict[str, Any]:
        """An annotator's id, name and progress; the same name gives the same annotator.

        Raises:
            Refused: the name is empty, too long, or holds characters that can't be shown.
        """
        clean = " ".join(unicodedata.normalize("NFC", name).split())
        if not 1 <= len(clean) <= MAX_NAME:
            raise Refused(f"the name has {len(clean)} characters; allowed are 1 to {MAX_NAME}")
        kinds = {unicodedata.category(character) for character in clean}
        if kinds & {"Cc", "Cs"} or kinds <= {"Cf", "Zs"}:  # a name of joiners alone looks like none
            raise Refused("the name holds characters that can't be shown")
        annotator_id = self._database.join(clean)
        with self._database.transaction() as session:
            progress = {mode: self._progress(session, mode, annotator_id, clean) for mode in CONTENT}
        return {"annotator": annotator_id, "name": clean, "progress": progress}

    def next(self, annotator_id: int, mode: Mode) -> dict[str, Any]:
        """The item at which an annotator is, or the next one; `task` is None when nothing is left.

        Asking again gives the same item until it is done or skipped.
        """
        name = self._known(annotator_id)
        with self._database.transaction() as session:
            take_turn(session)
            answers = answers_of_kind(session, mode == "compare")
            left = self._left(mode, answers, annotator_id, name)
            answer = next((own for own in answers if own.annotator_id == annotator_id and own.state == "open"), None)
            if answer is None or self._name(answer.item) not in self._items:
                answer = self._give(session, annotator_id, left[0]) if left else None
            progress = self._progress(session, mode, annotator_id, name)
        return {"task": answer and self._task(answer, name), "progress": progress}

    def previous(self, annotator_id: int, mode: Mode, before: str | None) -> dict[str, Any]:
        """The item that an annotator was given before the item named `before`, or last of all; `task` may be None."""
        name = self._known(annotator_id)
        with self._database.transaction() as session:
            own = [a for a in answers_of_kind(session, mode == "compare") if a.annotator_id == annotator_id]
            own = [a for a in own if self._name(a.item) in self._items]
            places = [place for place, answer in enumerate(own) if self._name(answer.item) == before]
            earlier = own[: places[0]] if places else own
            progress = self._progress(session, mode, annotator_id, name)
        return {"task": self._task(earlier[-1], name) if earlier else None, "progress": progress}

    def save(
        self, annotator_id: int, token: str, state: State, content: dict[str, Any], base: int, save_id: str
    ) -> dict[str, Any]:
        """Keeps what an annotator says of an item; the answer is on the disk when this returns.

        Raises:
            Refused: the annotator never got the item, or the content does not fit it.
            Conflict: another tab has saved the item meanwhile.
        """
        name = self._known(annotator_id)
        item = self._items.get(token)
        if item is None:
            raise Refused("there is no such item")
        mode: Mode = "compare" if item.is_pair else "rate"
        checked = self._check(mode, state, content)
        if isinstance(checked, Comparison) and assignment.is_turned(item, self.settings.seed, name):
            checked = checked.turned()
        try:
            answer = self._database.save(annotator_id, item, state, checked.model_dump(mode="json"), base, save_id)
        except LookupError as error:
            raise Refused(str(error)) from error
        with self._database.transaction() as session:
            progress = self._progress(session, mode, annotator_id, name)
        return {"revision": answer.revision, "progress": progress}

    def task_of(self, conflict: Conflict, annotator_id: int) -> dict[str, Any]:
        """The stored state that a save was in conflict with."""
        return self._task(conflict.answer, self._known(annotator_id))

    def _check(self, mode: Mode, state: State, content: dict[str, Any]) -> Content:
        """The content as it is kept; Refused when it is not of the right form."""
        try:
            checked = CONTENT[mode].model_validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Refused(f"{place or 'content'}: {first['msg']}") from error
        problem = checked.problem(
            self.settings.grid.num_patches, tuple(self.settings.patch_aspects), finished=state == "done"
        )
        if problem:
            raise Refused(problem)
        return checked

    def _known(self, annotator_id: int) -> str:
        """The name of an annotator."""
        name = self._database.name(annotator_id)
        if name is None:
            raise Refused("this annotator is not known here; enter your name again")
        return name

    def _give(self, session: Session, annotator_id: int, item: Item) -> Answer:
        """Gives an item to an annotator: again, if it is one that they left open long ago."""
        answer = find_answer(session, annotator_id, item)
        if answer is None:
            fresh = {"state": "open", "content": {}, "revision": 0, "save_id": "", "saved_at": time.time()}
            prompt_id = self._material.clips[item.first].prompt_id
            place = {"first": item.first, "second": item.second, "prompt_id": prompt_id}
            answer = Answer(annotator_id=annotator_id, **place, **fresh)
            session.add(answer)
            session.flush()
        return answer

    def _left(self, mode: Mode, answers: Sequence[Answer], annotator_id: int, name: str) -> list[Item]:
        """What an annotator can still do, in their order."""
        own = {a.item for a in answers if a.annotator_id == annotator_id and a.state != "open"}
        fresh = time.time() - LEASE
        taken = {
            a.item
            for a in answers
            if a.annotator_id != annotator_id and (a.state == "done" or (a.state == "open" and a.saved_at > fresh))
        }
        started = {a.item for a in answers if a.annotator_id == annotator_id and a.state == "open"}
        if (mode, name) not in self._orders:
            self._orders[mode, name] = assignment.in_order(self._material.items(mode), self.settings.seed, name)
        return assignment.to_do(self._orders[mode, name], self._common[mode], own, taken - started)

    def _progress(self, session: Session, mode: Mode, annotator_id: int, name: str) -> Progress:
        answers = answers_of_kind(session, mode == "compare")
        states = [answer.state for answer in answers if answer.annotator_id == annotator_id]
        left = len(self._left(mode, answers, annotator_id, name))
        return Progress(states.count("done"), states.count("skipped"), left)

    def _name(self, item: Item) -> str:
        """What annotators know an item by; nothing of its clips' origin is in it."""
        clips = (self._material.clips.get(clip_id) for clip_id in (item.first, item.second) if clip_id)
        return "-".join(clip.token if clip else "?" for clip in clips)

    def _task(self, answer: Answer, name: str) -> dict[str, Any]:
        """An item as the page shows it: clips from left to right, and what was said of them so far."""
        item, content = answer.item, dict(answer.content)
        clips = [self._material.clips[clip_id] for clip_id in (item.first, item.second) if clip_id]
        if item.is_pair and assignment.is_turned(item, self.settings.seed, name):
            clips.reverse()
            content = Comparison.model_validate_json(json.dumps(content)).turned().model_dump(mode="json")
        return {
            "item": self._name(item),
            "state": answer.state,
            "revision": answer.revision,
            "save_id": answer.save_id,
            "content": content,
            "prompt": clips[0].prompt,
            "clips": [self._clip_view(clip) for clip in clips],
        }

    def _clip_view(self, clip: LabelClip) -> dict[str, Any]:
        facts = {name: getattr(clip.facts, name) for name in ("num_frames", "fps", "width", "height")}
        return {"url": f"/clips/{clip.token}", **facts, **patch_frames(clip, self.settings.grid)}
