"""The two questions about a pair of images: describe and compare, then answer with a number.

The form is RL-VLM-F's (arXiv:2402.03681): first the model looks, then the same model reads what it said and decides.
"""

import re

VERSION = 1
"""Of the words below: labels that were bought with others are not taken for these."""
NUMBER = re.compile(r"-1|0|1")
WRAPPING = " \t.`*\"'()[]{}"


def look(goal: str) -> tuple[str, str, str]:
    """What stands before the first image, between the two, and behind the second."""
    return (
        "Look at these two pictures.\nPicture A:",
        "Picture B:",
        "Say in one or two sentences what picture A shows, then what picture B shows. "
        f"The goal is {goal}. Then say how the two pictures differ with regard to that goal, if they do.",
    )


def decide(goal: str, said: str) -> str:
    """The second question, about the answer to the first."""
    return (
        f"Somebody compared two pictures, A and B. The goal is {goal}. This is what they wrote:\n---\n{said}\n---\n"
        "By this text, in which picture is the goal reached further? Answer with one line that holds nothing but a "
        "number: 0 for picture A, 1 for picture B, -1 if the text does not say or sees no difference."
    )


def read(answer: str) -> int | None:
    """0, 1 or -1 of an answer; None where it holds no number or several that differ.

    The last line that is nothing but a number counts; without one, the only number that stands anywhere by itself.
    """
    lines = [line.strip(WRAPPING) for line in answer.splitlines()]
    alone = [line for line in lines if NUMBER.fullmatch(line)]
    if alone:
        return int(alone[-1])
    found = set(re.findall(r"(?<![\w.-])(-1|0|1)(?![\w]|\.\d)", answer))
    return int(found.pop()) if len(found) == 1 else None
