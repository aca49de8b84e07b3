"""The eight commonsense reasoning tasks of LLM-Adapters (Hu et al. 2023, arXiv 2304.01933).

Rows have its JSON layout: `instruction` with the choices and an `Answer format: a/b/c` line, `input` (empty), `output`
("the correct answer is b") and `answer` ("b"). Rows of the original data sets on the hub are turned into the same. The
test sets are those that LLM-Adapters uses: the labelled validation sets of five of them, and the test sets of ARC and
OpenBookQA. Its BoolQ questions come without their passages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reflora_cli.tasks.base import Mixture, PromptTask
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.prompts import LLM_ADAPTERS, LLM_ADAPTERS_EVALUATION
from reflora_cli.tasks.sources import HubSource

FORMAT = "Answer format: "
LAYOUT = {"instruction": str, "output": str, "answer": str}


def example(row: Row) -> PromptExample:
    """Return the prompt of a row in LLM-Adapters' layout, with the candidates listed in its last line."""
    instruction, context, output, answer = row["instruction"], row.get("input") or "", row["output"], row["answer"]
    listed = instruction.rpartition(FORMAT)[2] if FORMAT in instruction else ""
    labels = tuple(label.strip() for label in listed.split("/") if label.strip())
    if not labels:
        raise ValueError(f"'instruction' does not end with its candidates, as in {FORMAT}answer1/answer2")
    if answer not in labels:
        raise ValueError(f"'answer' {answer!r} is not among the candidates {', '.join(labels)}")
    lead = output.removesuffix(answer)
    if lead == output:
        raise ValueError(f"'output' {output!r} does not end with the answer {answer!r}")
    return PromptExample(
        prompt=LLM_ADAPTERS.fill(instruction, context),
        answer=output,
        generation_prompt=LLM_ADAPTERS_EVALUATION.fill(instruction, context),
        candidates=tuple(lead + label for label in labels),
        labels=labels,
        label=answer,
    )


def adapter_row(instruction: str, labels: Sequence[str], right: int) -> Row:
    """Return a row in LLM-Adapters' layout. Raises ValueError when the label is not one of the answers."""
    if not 0 <= right < len(labels):
        raise ValueError(f"the answer is number {right + 1} of {len(labels)}")
    answer = labels[right]
    text = f"{instruction}{FORMAT}{'/'.join(labels)}"
    return {"instruction": text, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def listed_choices(question: str, choices: Sequence[str], right: int) -> Row:
    """Return choices as `Answer1: ... Answer2: ...`, as in ARC, OpenBookQA and Social IQa."""
    texts = " ".join(f"Answer{number}: {choice}" for number, choice in enumerate(choices, start=1))
    labels = [f"answer{number}" for number in range(1, len(choices) + 1)]
    instruction = f"Please choose the correct answer to the question: {question}\n\n{texts}\n\n"
    return adapter_row(instruction, labels, right)


def boolq(row: Row) -> Row:
    question = f"Please answer the following question with true or false, question: {row['question']}?\n\n"
    return adapter_row(question, ("true", "false"), 0 if row["answer"] else 1)


def piqa(row: Row) -> Row:
    choices = f"Solution1: {row['sol1']}\n\nSolution2: {row['sol2']}\n\n"
    instruction = f"Please choose the correct solution to the question: {row['goal']}\n\n{choices}"
    return adapter_row(instruction, ("solution1", "solution2"), int(row["label"]))


def social_i_qa(row: Row) -> Row:
    question = f"{row['context']} {row['question']}"
    return listed_choices(question, (row["answerA"], row["answerB"], row["answerC"]), int(row["label"]) - 1)


def hellaswag(row: Row) -> Row:
    texts = " ".join(f"Ending{number}: {ending}" for number, ending in enumerate(row["endings"], start=1))
    sentence = f"{row['activity_label']}: {row['ctx']}"
    instruction = f"Please choose the correct ending to complete the given sentence: {sentence}\n\n{texts}\n\n"
    return adapter_row(instruction, ("ending1", "ending2", "ending3", "ending4"), int(row["label"]))


def winogrande(row: Row) -> Row:
    choices = f"Option1: {row['option1']} Option2: {row['option2']} "
    blank = "Please choose the correct answer to fill in the blank to complete the given sentence: "
    return adapter_row(f"{blank}{row['sentence']}\n\n{choices}", ("option1", "option2"), int(row["answer"]) - 1)


def lettered(question: str) -> Callable[[Row], Row]:
    """Return the function that converts rows of ARC and OpenBookQA, whose choices have letters or numbers. question:
    the column's name.
    """

    def convert(row: Row) -> Row:
        choices = row["choices"]
        return listed_choices(row[question], choices["text"], list(choices["label"]).index(row["answerKey"]))

    return convert


LABELLED: Mapping[str, str] = {"test": "validation"}
"""The hub's test labels of these data sets are hidden."""


def task(short: str, answers: Sequence[str], source: HubSource) -> PromptTask:
    return PromptTask(
        name=f"commonsense/{short}",
        source=source,
        fields=LAYOUT,
        optional=("input",),
        example=example,
        template=LLM_ADAPTERS,
        pattern="|".join(answers),
    )


def numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{number}" for number in range(1, count + 1))


LETTERED = ("choices", "answerKey")

# Yes or no questions that people asked; without the passage.
BOOLQ = task(
    "boolq",
    ("true", "false"),
    HubSource("google/boolq", None, LABELLED, ("question", "answer"), boolq),
)
# Which of two ways of doing something works?
PIQA = task(
    "piqa",
    numbered("solution", 2),
    HubSource("baber/piqa", None, LABELLED, ("goal", "sol1", "sol2", "label"), piqa),
)
# Why people do things, and how they feel about it.
SOCIAL_I_QA = task(
    "social_i_qa",
    numbered("answer", 5),
    HubSource(
        "lighteval/siqa",
        None,
        LABELLED,
        ("context", "question", "answerA", "answerB", "answerC", "label"),
        social_i_qa,
    ),
)
# How does the story go on?
HELLASWAG = task(
    "hellaswag",
    numbered("ending", 4),
    HubSource("Rowan/hellaswag", None, LABELLED, ("activity_label", "ctx", "endings", "label"), hellaswag),
)
# To whom does the blank refer?
WINOGRANDE = task(
    "winogrande",
    numbered("option", 2),
    HubSource(
        "allenai/winogrande", "winogrande_xl", LABELLED, ("sentence", "option1", "option2", "answer"), winogrande
    ),
)
# Science questions for pupils.
ARC_EASY = task(
    "ARC-Easy",
    numbered("answer", 5),
    HubSource("allenai/ai2_arc", "ARC-Easy", {}, ("question", *LETTERED), lettered("question")),
)
# Those of them that simple methods get wrong.
ARC_CHALLENGE = task(
    "ARC-Challenge",
    numbered("answer", 5),
    HubSource("allenai/ai2_arc", "ARC-Challenge", {}, ("question", *LETTERED), lettered("question")),
)
# Science facts applied to something new.
OPENBOOKQA = task(
    "openbookqa",
    numbered("answer", 5),
    HubSource("allenai/openbookqa", "main", {}, ("question_stem", *LETTERED), lettered("question_stem")),
)

TASKS = (BOOLQ, PIQA, SOCIAL_I_QA, HELLASWAG, WINOGRANDE, ARC_EASY, ARC_CHALLENGE, OPENBOOKQA)

# All eight: one model for all of them, as in the papers.
COMMONSENSE = Mixture(
    name="commonsense",
    parts=TASKS,
    joint=PromptTask("commonsense", None, LAYOUT, example, LLM_ADAPTERS, optional=("input",)),
    joint_files=("commonsense_170k", "train"),
)
