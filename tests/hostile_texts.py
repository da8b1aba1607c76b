"""Mutated recipes, prompt files and tables, the same for the same seed: a test reads some, this program reads many.

    python tests/hostile_texts.py [--recipes 1000] [--extremes 150] [--prompts 700] [--tables 900]

Each kind is read in a process of its own, so that a crash of the interpreter is seen, and the peak of memory. A file
passes when it is read or refused in one sentence, within two seconds of work and 500 MB. Exit code 1 when one does not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel

from halovid.clips.prompts import load_prompts
from halovid.config.recipes import load_config
from halovid.config.run import PromptsConfig, RunConfig
from halovid.config.sections import section_fields
from halovid.judges.rounds import read_rounds
from halovid.judges.table import TableJudge
from halovid.maths.grid import PatchGrid
from halovid.maths.noise import sample_sigma
from halovid.maths.seeds import clip_seed, step_seed
from halovid.measuring.raters import read_raters
from halovid.stages.reward import held_out_clips
from halovid.store.errors import InputError
from halovid.store.runtime import set_threads
from halovid.store.tables import LABELS, PREFERENCES, QUESTIONS
from halovid.study.runner import load_study
from halovid.training.batches import batch_indices

Case = Callable[[Path], object]
RECIPES = Path(__file__).parents[1] / "recipes"
GRID = PatchGrid(1, 2, 2)
SECONDS, MEGABYTES, MOST_CHARACTERS = 2.0, 500, 3000
_BOMB = ", a0: &a0 [x, x, x, x, x, x, x, x, x]" + "".join(
    f", a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)
)
NASTY_YAML = [
    *("2001-99-99", "2001-01-01", "0x_", "0b_", "!!int x", "!!bool maybe", "!!binary x", "!!python/name:os.system"),
    *("9" * 5000, "-" + "9" * 300, "1e999", "-1e999", ".inf", ".nan", "1e-400", "0x" + "f" * 5000, "0o777", "1_000"),
    *("[" * 2000, "{" * 2000, "- " * 300, "? " * 300, "[[[[[1]]]]]", "{}", "[]", "[null]", "{a: {b: {c: d}}}"),
    *("*a", "&a [*a]", "<<: *a", "{<<: {a: 1}}", "null", "~", "true", "yes", "no", "''", "|", ">", "@", "`", "%", "\t"),
    *(
        "x" * 60_000,
        "\x00",
        "\x1b[31m",
        '"\\ud800"',
        '"\\UFFFFFFFF"',
        "\u2028",
        "\U0001f600",
        "../../..",
        "/dev/zero",
        "/",
    ),
    *("sk-" + "a" * 40, "{x: 1, x: 2}", "[1, 2", "{1: 2}", "{[1]: 2}", "{a: &b 1, c: *b}", "-1", "0", "2.5", "1e300"),
    "{x: 1" + _BOMB + "}",
]
NASTY_JSON = [
    *("null", "true", "false", "[]", "{}", "-1", "1e999", "NaN", "Infinity", "9" * 400, "9" * 5000, "1e-400", '"x"'),
    *("[" * 100_000, '{"a":' * 50_000, '"\\ud800"', '"\\u0000"', "[[1]]", "[true]", '["x"]', '{"x": 1, "x": 2}', "1.5"),
    *('"' + "x" * 100_000 + '"', "[" + "1," * 20_000 + "1]", "\x00", "[1, 2, 3, 4]", "[1, null, 2, 5]", "[1, 2, 3, 9]"),
    *("9007199254740993", '"2020-01-01"', "3", "[null]", '""'),
]


def mutated_recipes(count: int, seed: int, folder: Path) -> Iterator[Case]:
    """Recipes and studies with one to three damages, and overrides with odd values."""
    rng = random.Random(seed)
    sources = [path.read_text("utf-8") for path in sorted(RECIPES.rglob("*.yaml"))]
    settings = list(leaves(RunConfig))
    for number in range(count):
        text, overrides = rng.choice(sources), ()
        if number % 4 == 0:
            value = rng.choice(NASTY_YAML)
            setting = rng.choice(settings)[0]
            overrides = (f"{setting if rng.random() < 0.8 else _damaged(rng, setting, NASTY_YAML)}={value}",)
            text = "seed: 1\n"
        else:
            for _ in range(rng.randint(1, 3)):
                text = _damaged(rng, text, NASTY_YAML)
        path = folder / f"{number}.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        (folder / "demo.yaml").write_text("seed: 1\n")
        yield lambda _, path=path, overrides=overrides: _either(path, overrides)


def _either(path: Path, overrides: tuple[str, ...]) -> None:
    """Reads a file as a study when it looks like one, else as a recipe."""
    if not overrides and b"methods:" in path.read_bytes():
        load_study(path)
    else:
        load_config(path, overrides)


def leaves(root: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every setting of a section and of those in it."""
    for name, kind in section_fields(root).items():
        choices = [kind, *get_args(kind)]
        sections = [choice for choice in choices if isinstance(choice, type) and _is_section(choice)]
        if sections == [kind] or len(sections) > 1:  # one section, or several that are chosen from by name
            for section in sections:
                yield from leaves(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _is_section(kind: type) -> bool:
    """Whether a setting of this type has settings in it."""
    return issubclass(kind, BaseModel) or hasattr(kind, "__dataclass_fields__")


EXTREMES = [
    *("0", "1", "-1", "0.0001", "0.9999", "65", "1000", "1e6", "1e18", "1e300", "1e-300"),
    *(str(2**31), str(2**63 - 1), str(2**63)),
]


def extreme_values(count: int, seed: int, folder: Path) -> Iterator[Case]:
    """Numbers at the ends of their types in every setting that takes one; those that validate are put to use."""
    rng = random.Random(seed)
    numbers = [setting for setting, kind in leaves(RunConfig) if "int" in str(kind) or "float" in str(kind)]
    recipe = folder / "r.yaml"
    recipe.write_text("seed: 1\n")
    every = [(setting, value) for setting in numbers for value in EXTREMES]
    rng.shuffle(every)
    valid = []
    for setting, value in every:
        try:
            valid.append(load_config(recipe, (f"{setting}={value}",)))
        except InputError:
            continue
    for config in valid[:count]:
        yield lambda _, config=config: use(config)


def use(config: RunConfig) -> None:
    """What all stages do with numbers of a recipe before they do any work."""
    assert min(config.reward_size) >= 1
    json.dumps(config.model_dump(mode="json"))
    set_threads(config.threads)
    set_threads(1)
    for seed in (config.seed, config.align_seed, config.reward_seed, clip_seed(config.seed, "p", 0)):
        torch.Generator().manual_seed(step_seed(seed, 1_000_003, 7))
        torch.manual_seed(seed)
    assert len(batch_indices(10, min(config.align.batch_size, 100), 3, config.align_seed)) <= 100
    sample_sigma(4, config.align.sigma, torch.Generator().manual_seed(0))
    held_out = held_out_clips([{"prompt_id": f"p{i}"} for i in range(9)], config.reward.held_out, config.seed)
    assert held_out.any() and not held_out.all()


def mutated_prompts(count: int, seed: int, folder: Path) -> Iterator[Case]:
    """Prompt files of the three kinds with one to three damages."""
    rng = random.Random(seed)
    prompts = ["a red ball", "two dogs, one cat", 'he said "no"', "\U0001f600 family"]
    sources = {
        "txt": "\n".join(prompts),
        "jsonl": "".join(json.dumps({"prompt": prompt, "id": 1}) + "\n" for prompt in prompts),
        "csv": 'id,prompt\n1,a red ball\n2,"two dogs, one cat"\n3,x\n',
    }
    for number in range(count):
        kind, text = rng.choice(list(sources.items()))
        for _ in range(rng.randint(1, 3)):
            text = _damaged(rng, text, NASTY_JSON)
        path = folder / f"{number}.{kind}"
        content = text.encode("utf-8", "surrogatepass")
        path.write_bytes(_damaged_bytes(rng, content) if number % 5 == 0 else content)
        yield lambda _, path=path: load_prompts(PromptsConfig(file=path))


def mutated_tables(count: int, seed: int, folder: Path) -> Iterator[Case]:
    """Tables of labels, preferences and questions as JSON Lines and Parquet, with damaged values or bytes."""
    rng = random.Random(seed)
    label = {"clip_id": "a", "aspect": "visual_quality", "score": 3.0, "patch_scores": [1.0, 2.0, 4.5, 5.0]}
    preference = {"prompt_id": "p", "first": "a", "second": "b", "preference": 1.0, "patch_preferences": [1.0, -0.5]}
    label["judge"] = preference["judge"] = "j"
    question = {"clip_id": "a", "round": 0, "patches": [0, 3]}
    readers: dict[str, tuple[dict[str, Any], pa.Schema, Case]] = {
        "labels": (label, LABELS, lambda path: TableJudge(path, GRID)),
        "ratings": (label, LABELS, lambda path: read_raters(path, {})),
        "preferences": (preference, PREFERENCES, lambda path: read_raters(path, {})),
        "questions": (question, QUESTIONS, read_rounds),
    }
    for number in range(count):
        name = rng.choice(list(readers))
        row, schema, read = readers[name]
        rows = [row | ({"clip_id": f"c{i}"} if "clip_id" in row else {"second": f"c{i}"}) for i in range(3)]
        if number % 3:
            path = folder / f"{number}.jsonl"
            text = _lines(rng, rows)
            path.write_bytes(_damaged_bytes(rng, text) if number % 9 == 1 else text)
        else:
            path = folder / f"{number}.parquet"
            _write_parquet(rng, path, rows, schema)
        yield lambda _, read=read, path=path: read(path)


def _lines(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    """JSON Lines in which a value, or a whole line, is something else."""
    lines = [{key: json.dumps(value) for key, value in row.items()} for row in rows]
    for _ in range(rng.randint(1, 2)):
        rng.choice(lines)[rng.choice(list(lines[0]))] = rng.choice(NASTY_JSON)
    texts = ["{" + ", ".join(f'"{key}": {value}' for key, value in line.items()) + "}" for line in lines]
    if rng.random() < 0.2:
        texts[rng.randrange(len(texts))] = rng.choice(NASTY_JSON)
    if rng.random() < 0.05:
        texts = [rng.choice(NASTY_JSON)]
    return "\n".join(texts).encode("utf-8", "surrogatepass")


def _write_parquet(rng: random.Random, path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """A Parquet table with odd columns, odd metadata or damaged bytes."""
    table = pa.Table.from_pylist(rows, schema)
    name = rng.choice(schema.names)
    others = [[value] * 3 for value in (True, "x", 1e300, None, [1], 2**62, b"\xff", float("nan"), {"a": 1})]
    how = rng.randrange(5)
    if how == 0:
        table = table.set_column(schema.get_field_index(name), name, pa.array(rng.choice(others)))
    elif how == 1:
        kind, version = rng.choice(["labels", "votes"]), rng.choice(["1", "2", ""])
        table = table.replace_schema_metadata({"halovid.table": kind, "halovid.version": version})
    elif how == 2:
        table = table.drop_columns(name) if rng.random() < 0.7 else table.append_column(name, table[name])
    pq.write_table(table, path)
    if how > 2:
        path.write_bytes(_damaged_bytes(rng, path.read_bytes()))


def _damaged(rng: random.Random, text: str, values: list[str]) -> str:
    """A text in which a value, a line, or some signs are other ones."""
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    how = rng.randrange(6)
    if how == 0 and ":" in lines[place]:
        lines[place] = lines[place].partition(":")[0] + ": " + rng.choice(values)
    elif how == 1:
        lines.insert(place, rng.choice(lines))
    elif how == 2:
        lines.insert(place, rng.choice(values))
    else:
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 1, 5, 50]))
        return text[:start] + rng.choice([*values, "", "", ":", "{", "]", '"', "'", "#", "\n", "\t", ","]) + text[end:]
    return "\n".join(lines)


def _damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bytes of which some are others, are missing, or are there twice."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 3, 20])):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    cut = rng.randrange(len(changed) + 1)
    return bytes(rng.choice([changed, changed, changed[:cut], changed[:cut] + changed]))


KINDS: dict[str, Callable[[int, int, Path], Iterator[Case]]] = {
    "recipes": mutated_recipes,
    "extremes": extreme_values,
    "prompts": mutated_prompts,
    "tables": mutated_tables,
}


def check(kind: str, count: int, seed: int, folder: Path) -> tuple[list[str], int]:
    """What went wrong with the files of a kind, and how many were refused."""
    problems, refused = [], 0
    for number, case in enumerate(KINDS[kind](count, seed, folder)):
        started = time.process_time()
        try:
            case(folder)
        except InputError as error:
            refused += 1
            hides_nothing = "sk-aaaa" in str(error) and re.search(r"vlm|server", str(error))
            if len(str(error)) > MOST_CHARACTERS or hides_nothing:
                problems.append(f"{kind} {number}: {len(str(error))} characters, or a key in them: {str(error)[:300]}")
        except Exception:
            problems.append(f"{kind} {number}: {traceback.format_exc()[-1500:]}")
        if (seconds := time.process_time() - started) > SECONDS:
            problems.append(f"{kind} {number}: {seconds:.1f} s")
    return problems, refused


def _check_apart(kind: str, count: int, seed: int) -> None:
    """Checks a kind in a process that ends with 1 when something went wrong."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with tempfile.TemporaryDirectory() as folder:
        problems, refused = check(kind, count, seed, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before
    report = f"{kind}: {count} tried, {refused} refused, {len(problems)} wrong, {peak} MB more at the peak\n"
    sys.stdout.write("\n".join([*problems, report]))
    sys.exit(bool(problems) or peak > MEGABYTES)


def main() -> None:
    """Checks all kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in {"recipes": 1000, "extremes": 150, "prompts": 700, "tables": 900}.items():
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    wrong = False
    for kind in KINDS:
        process = multiprocessing.get_context("spawn").Process(
            target=_check_apart, args=(kind, options[kind], options["seed"])
        )
        process.start()
        process.join()
        if process.exitcode not in (0, 1):
            sys.stdout.write(f"{kind}: the interpreter ended with {process.exitcode}\n")
        wrong |= process.exitcode != 0
    sys.exit(wrong)


if __name__ == "__main__":
    main()
