"""What models and chat templates put around an answer is taken off, and nothing else is."""

import time
from collections.abc import Callable

import pytest

from ai_retry.providers.wrapping import bare_json, bare_text, early_json, trimmed

HARMONY = "<|channel|>analysis<|message|>Knee…<|end|><|start|>assistant<|channel|>final<|message|>Run!<|return|>"


@pytest.mark.parametrize(
    "content",
    [
        "<think>Knee…</think>Run!",
        "\n <think>\nKnee…\n</think>\n\nRun!",
        "\ufeff<think>Knee…</think>\ufeffRun!",
        "<THINK >Knee…</Think>Run!",
        "<thinking>Knee…</thinking>Run!",
        "<thought>Knee…</thought>Run!",
        "<reasoning>Knee…</reasoning>Run!",
        "<reflection>Knee…</reflection>Run!",
        "<seed:think>Knee…</seed:think>Run!",
        "[THINK]Knee…[/THINK]Run!",
        "◁think▷Knee…◁/think▷Run!",
        "<|START_THINKING|>Knee…<|END_THINKING|>Run!",
        HARMONY,
        f"<|start|>assistant{HARMONY}",
        "<|channel|>final<|message|>Run!",
        "<|channel|>final <|constrain|>json<|message|>Run!",
        '<think time="3" tokens="9">Knee…</think>Run!',
        "<longcat_think>Knee…</longcat_think>Run!",
        "<scratchpad>Knee…</scratchpad>\nRun!",
        "<antThinking>Knee…</antThinking>Run!",
        "<|begin_of_thought|>Knee…<|end_of_thought|>\n\n<|begin_of_solution|>\nRun!<|end_of_solution|>",
        "<|inner_prefix|>Knee…<|inner_suffix|>Run!",
        "<|channel>thought\nKnee…\n<channel|>Run!<turn|>",
        "<unused94>thought\nKnee…<unused95>Run!",
        "<|START_THINKING|>Knee…<|END_THINKING|><|START_RESPONSE|>Run!<|END_RESPONSE|>",
        "<|begin_of_box|>Run!<|end_of_box|>",
        "<|im_start|>assistant\nRun!<|im_end|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n<think>Knee…</think>Run!<|eot_id|>",
        "<start_of_turn>model\nRun!<end_of_turn>",
        "<think>Knee…</thinking>Run!",
        "<think></think><think>Knee…</think> Run!",
        "<think>a <think> b</think> c</think>Run!",
        "<think>I must end with `</think>`.</think>Run!",
        "Knee…</think>Run!",
        "Knee…\n</think>\n\nRun!",
        "</think>Run!",
        "Run!<|im_end|>",
        "Run!\n<|eot_id|>\n<|eot_id|> ",
        "Run!</s>",
        "Run!<|end|>",
        "Run!<|endoftext|>",
        "Run!<\uff5cend\u2581of\u2581sentence\uff5c>",
        "\ufeffRun!",
        "<think>Knee…</think>\n\ufeffRun!</s><|im_end|>",
    ],
)
def test_answer_is_left_of_its_wrapping(content: str) -> None:
    """Thoughts before an answer, end tokens after it and byte order marks are no part of it."""
    assert bare_text(content) == "Run!"


@pytest.mark.parametrize(
    "content",
    [
        "Run!",
        " Run! \n",
        "",
        " \n",
        "The tag <think> begins thoughts.",
        "Write <think>a</think> first.",
        "Write `</think>` last.",
        'Write "</think>" last.',
        "`<think>` begins thoughts.",
        "```json\n{}\n```",
        "<s>Walk</s> Run <s>slow</s>",
        "<thinker>a</thinker>",
        "<think about it> Run!",
        "<answer>Run!</answer>",
        "<response>Run!</response>",
        "Say <|begin_of_box|>a<|end_of_box|>",
        "<|begin_of_box|>a<|end_of_box|> b",
        "<|im_end|> is a token.",
        "a </s> b",
    ],
)
def test_text_that_is_no_wrapping_stays(content: str) -> None:
    """White space, fences, mentions of tags and markup are the answer's own."""
    assert bare_text(content) == content


@pytest.mark.parametrize(
    "content",
    [
        "<think>Run!",
        "<think>",
        "<think>a</think>",
        "Knee…</think>\n",
        "<think>`</think>` Run!",
        "<|channel|>analysis a",
        "<|channel>thought a",
        '<think time="3"> a',
    ],
)
def test_thoughts_without_end_leave_no_answer(content: str) -> None:
    """What is opened and not closed, or followed by nothing, holds no answer."""
    assert bare_text(content) == ""


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "\ufeff {}\n",
        "```json\n{}\n```",
        "```JSON\r\n{}\r\n```\r\n",
        "```\n{}\n```",
        "```{}```",
        "``` json\n{}\n```".replace(" ", ""),
        "<think>{} or []</think>\n```json\n{}\n```<|im_end|>",
        "```json\n{}\n```\n<think>good</think>",
        "{}\n<think>a</think>",
        "```json\n\ufeff{}\n```",
        "```json5\n{}\n```",
        "```javascript\n{}\n```",
        "<think>a</think>\n<answer>\n{}\n</answer>",
        "<|begin_of_box|>{}<|end_of_box|>",
        "<|begin_of_box|>```json\n{}\n```<|end_of_box|>",
        "<output>```json\n{}\n```</output>",
        "\u200b{}",
    ],
)
def test_json_is_left_of_its_wrapping(content: str) -> None:
    """One whole fence is taken off as well, and thoughts after the JSON."""
    assert bare_json(content) == "{}"


@pytest.mark.parametrize(
    "content",
    [
        "<answer>{}",
        "<answer>{}</answer> b",
        "```json\n{}",
        "{}\n```",
        "```json\n{}\n```\n{}",
        "a ```{}```",
        "````",
        "`````",
        "~~~\n{}\n~~~",
        "{} a",
    ],
)
def test_other_fences_stay(content: str) -> None:
    """A fence that is open, or has anything around it, is not taken off."""
    assert bare_json(content) == content


def test_fence_in_a_fence_stays() -> None:
    """Only one fence is taken off."""
    assert bare_json("```\n```\n{}\n```\n```") == "```\n{}\n```"


@pytest.mark.parametrize(
    "content",
    [
        '<think>a</think>{"a": "b</think>c"}',
        '<think>a</think>\n```json\n{"a": "b</think>c"}\n```<|im_end|>',
        '<think>I end with </think> then.</think> {"a": "b</think>c"}',
        'a</think>{"a": "b</think>c"}\n<think>b</think>',
        '```json\n{"a": "b</think>c"}\n```',
        '{"a": "b</think>c"}\n<think>b</think>',
    ],
)
def test_json_with_a_tag_in_it_is_found(content: str) -> None:
    """A closing tag in a string of the JSON ends no thoughts."""
    assert early_json(content) == '{"a": "b</think>c"}'


def test_trimming_leaves_tags_of_thoughts() -> None:
    """White space, end tokens and byte order marks go; JSON may hold any tag in a string."""
    assert trimmed('\ufeff {"a": "</think>"} <|im_end|>\n') == '{"a": "</think>"}'


@pytest.mark.parametrize("act", [bare_text, bare_json, early_json, trimmed])
@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "<think>",
            "</think>",
            "a<think>",
            "a</think>",
            "<think",
            "<think ",
            "</s>",
            "<|end|>",
            "<|end|> ",
            " ",
            "\ufeff",
        ),
        *(
            "`",
            "```",
            "```\n",
            "<s>",
            "[THINK]",
            "<",
            "<|channel|>",
            "a<think></think>",
            "`</think>`",
            "<think>`</think>`",
            "<think a=",
            "<think " + "a" * 40,
            "<think a=b ",
            "<answer>",
            "<|begin_of_box|>",
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_hostile_content_takes_linear_time(act: Callable[[str], str], pattern: str) -> None:
    """Whatever repeats in a long content is read in a moment, also with a head and a tail."""
    content = pattern * (400_000 // len(pattern))
    for hostile in (content, f"a{content}b", f"<think>{content}</think>"):
        started = time.process_time()

        act(hostile)

        assert time.process_time() - started < 2.0
