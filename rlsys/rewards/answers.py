"""The task reward of one completion: does its answer equal the gold answer?

    grade("... so it is $\\boxed{\\frac{6}{8}}$.", "0.75")  ->  Verdict("correct", ...)

Built on math-verify's comparison and latex2sympy's grammar (see `reading`), with what they lack: no signals, so it
works in any thread; no text of a model is evaluated; choice letters, words and numbers of any length are compared
as what they are. It never raises. It may be slow on hostile text: `GradingPool` and `rlsys grade` have deadlines.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import math_verify

from rlsys.rewards import extraction, reading
from rlsys.types import Verdict

logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_INTEGER = re.compile(r"([-+]?)(\d+|[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+))")
_FRACTION = re.compile(r"(-?)\\frac\{(-?\d{1,300})\}\{(\d{1,300})\}|(-?\d{1,300})/(\d{1,300})")
_DECIMAL = re.compile(r"-?\d{0,300}\.\d{1,300}")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}\s+[A-Za-z]{2,}")


def grade(completion: str, gold: str, *, require_box: bool = False) -> Verdict:
    """Compare the answer of a completion with the gold answer.

    Args:
        completion: any text; its last `\\boxed{}` is the answer, else what math-verify's patterns find at its end.
        gold: a full solution (the same rule applies) or a bare answer: "12", "\\frac{3}{4}", "x=5", "(A)".
        require_box: whether a completion without a box is wrong, whatever it says.

    Returns:
        `correct`; `wrong` (another answer, or none); `undecided` where neither could be shown, with the reason.
    """
    try:
        return _grade(extraction.clean(completion), extraction.clean(gold), require_box)
    except Exception as error:  # any failure on any text is a recorded verdict, never a crash of the run
        return Verdict("undecided", f"grading failed: {type(error).__name__}")


def warm_up() -> None:
    """Load the grammar's tables and sympy's caches, so that the first answers of a process are not slow."""
    for completion in (r"\boxed{\frac{x^2+1}{2}}", r"The answer is $\sqrt{2}+1$.", r"\boxed{(1, 2]}"):
        grade(completion, r"$\frac{1}{2}+x$")


def _grade(completion: str, gold: str, require_box: bool) -> Verdict:
    answers = extraction.boxed_answers(completion)
    if require_box and not answers:
        return Verdict("wrong", "the completion has no box")
    gold_boxes = extraction.boxed_answers(gold)
    gold_answer = gold_boxes[-1] if gold_boxes else gold
    if not gold_answer.strip():
        return Verdict("undecided", "the gold answer is empty")
    if letter := extraction.choice_letter(gold_answer):
        said = _letter_of(answers, completion)
        if said is not None:
            return _decided(said == letter, f"choice {said}")
    if answers:
        lettered = [split[1] for answer in answers[:1] if (split := extraction.without_choice_letter(answer))]
        candidates = [*answers, *(rest for rest in lettered if rest)]
        verdicts = [_compare_texts(candidate, gold_answer, bool(gold_boxes)) for candidate in candidates]
        return _best(verdicts)
    return _compare_unboxed(completion, gold_answer, bool(gold_boxes))


def _letter_of(answers: list[str], completion: str) -> str | None:
    """The choice letter that the completion settles on, or None."""
    answer = answers[0] if answers else completion
    letter = extraction.choice_letter(answer) if answers else extraction.said_letter(completion)
    if letter is not None:
        return letter
    split = extraction.without_choice_letter(answer) if len(answer) <= extraction.MAX_ANSWER_CHARS else None
    return split[0] if split else None


def _best(verdicts: list[Verdict]) -> Verdict:
    for label in ("correct", "undecided"):
        for verdict in verdicts:
            if verdict.label == label:
                return verdict
    return verdicts[0]


def _decided(is_equal: bool, what: str) -> Verdict:
    return Verdict("correct", f"{what}: equal to the gold answer") if is_equal else Verdict(
        "wrong", f"{what}: not the gold answer"
    )  # fmt: skip


def _compare_texts(answer: str, gold: str, gold_is_boxed: bool) -> Verdict:
    """Compare an answer cut out of its completion with the gold answer, the cheap and exact ways first."""
    if not answer.strip():
        return Verdict("wrong", "the answer is empty")
    exact = _exact_number(answer), _exact_number(gold)
    if exact[0] is not None and exact[1] is not None:
        if exact[0] == exact[1]:
            return _decided(True, "number")
        if not _has_point(answer) and not _has_point(gold):
            return _decided(False, "number")
    if extraction.plain_form(answer) == extraction.plain_form(gold):
        return _decided(True, "text")
    if extraction.is_words(gold):
        return _decided(False, "words")
    try:
        return _compare_values(_gold_values(gold, gold_is_boxed), reading.read_latex(answer))
    except reading.TooLargeError as error:
        return Verdict("undecided", str(error))
    except reading.UnreadableError as error:
        return Verdict("wrong", str(error))


def _compare_unboxed(completion: str, gold: str, gold_is_boxed: bool) -> Verdict:
    """Compare a completion that has no box: a bare answer as it stands, else what its end states."""
    if len(completion) <= extraction.MAX_ANSWER_CHARS or _exact_number(completion) is not None:
        if extraction.plain_form(completion) == extraction.plain_form(gold):
            return _decided(True, "text")
        if _is_bare(completion) and (verdict := _compare_texts(completion, gold, gold_is_boxed)).label == "correct":
            return verdict
    try:
        gold_values = _gold_values(gold, gold_is_boxed)
        value = reading.find_value(completion)
    except reading.TooLargeError as error:
        return Verdict("undecided", str(error))
    if value is None:
        return Verdict("wrong", "the completion states no answer")
    return _compare_values(gold_values, value)


@lru_cache(maxsize=1024)
def _gold_values(gold: str, is_boxed: bool) -> tuple[Any, ...]:
    """What a gold answer may mean, as sympy values; () where it is not mathematics that can be read.

    Only a bare "1,5" has two meanings: a decimal comma, and a list.
    """
    values: list[Any] = []
    if not is_boxed and (number := reading.whole_number(gold)) is not None:
        values.append(reading.read_number(number))
        if not _DECIMAL_COMMA.fullmatch(gold.strip()):
            return tuple(values)
    if is_boxed or _is_bare(gold):
        try:
            return (*values, reading.read_latex(gold))
        except reading.UnreadableError:
            pass
    if values:
        return tuple(values)
    found = reading.find_value(gold)
    return () if found is None else (found,)


def _is_bare(text: str) -> bool:
    """Whether a text is an answer by itself, with no prose around it: "x=5", "2\\sqrt{3}", "(1, 2]"."""
    stripped = text.strip().replace("\\$", "")
    return (
        0 < len(stripped) <= extraction.MAX_ANSWER_CHARS
        and "$" not in stripped and "\n" not in stripped and r"\(" not in stripped and r"\[" not in stripped
        and not _PROSE.search(stripped)
    )  # fmt: skip


def _compare_values(golds: tuple[Any, ...], value: Any) -> Verdict:
    if not golds:
        return Verdict("undecided", "the gold answer cannot be read as mathematics and the texts differ")
    try:
        is_equal = math_verify.verify(list(golds), value, timeout_seconds=None, raise_on_error=True)
    except (RecursionError, MemoryError, OverflowError) as error:
        return Verdict("undecided", f"the comparison grew too large ({type(error).__name__})")
    except Exception as error:  # sympy raises anything; which two values were incomparable is the verdict's reason
        return Verdict("undecided", f"the comparison failed ({type(error).__name__})")
    return _decided(is_equal, "value")


def _has_point(text: str) -> bool:
    return "." in text


def _exact_number(text: str) -> Fraction | int | str | None:
    """The text as an exact number, if it is an integer, fraction or decimal and nothing else.

    Integers too long for Python's own conversion come as their digits: equal numbers have equal digits.
    """
    text = text.strip()
    if text.startswith("$") and text.endswith("$") and len(text) > 2:
        text = text[1:-1].strip()
    if match := _INTEGER.fullmatch(text):
        digits = re.sub("[, ]", "", match[2]).lstrip("0") or "0"
        sign = "-" if match[1] == "-" and digits != "0" else ""
        return sign + digits if len(digits) > 300 else int(sign + digits)
    if match := _FRACTION.fullmatch(text.replace("dfrac", "frac").replace("tfrac", "frac")):
        top, bottom = int(match[2] or match[4]), int(match[3] or match[5])
        return (-1 if match[1] else 1) * Fraction(top, bottom) if bottom else None
    return Fraction(text) if _DECIMAL.fullmatch(text) else None
