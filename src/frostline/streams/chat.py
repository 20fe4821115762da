"""Prompts, answers and conversations as one text, and which stretches of it are answers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from frostline.core.checks import UsageError
from frostline.core.torchvision_schemas import torchvision
from frostline.streams.rows import Row, text_in

Message = dict[str, str]
Render = Callable[[list[Message], bool], str]  # of messages, and whether the model is to answer
Stretch = tuple[str, bool]  # some text, and whether it is an answer
Keys = tuple[str | Sequence[str], str, str]
BUILT_IN = "chatml"
SPEAKERS = {"human": "user", "gpt": "assistant"}  # as ShareGPT calls them


def stretches(row: Row, keys: Keys, where: str, render: Render, every: bool) -> tuple[list[Stretch], bool]:
    """Return a row's text in stretches, and whether a template has written it, with whatever begins and ends it.

    keys: what the columns with the prompt, the answer and the messages are called. Prompt and answer are texts, or lists of
    messages; a prompt of several columns is their texts, those that are not empty, with a blank line between them. Of
    `messages` the assistant's are answers, all or with `every` false the last.
    """
    prompts, completion, messages = keys
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    prompt = prompts[0]
    if row.get(messages) is not None:
        told = _messages(row[messages], f"{where}, {messages!r}")
        answers = [i for i, message in enumerate(told) if message["role"] == "assistant"]
        if not answers:
            raise UsageError(
                f"{where}: no message is the assistant's. Expected one with the role 'assistant' to learn from."
            )
        return _conversation(told, answers if every else answers[-1:], render, where), True
    if prompt not in row or completion not in row:
        raise UsageError(
            f"{where} has {', '.join(map(repr, row)) or 'nothing'}: expected {prompt!r} and {completion!r}, or {messages!r}. "
            "Others are named by stream.prompt, stream.completion and stream.messages."
        )
    if prompts == ["instruction"] and row.get("input"):
        raise UsageError(
            f"{where} has an 'input' too, which is half of what was asked. Expected 'stream.prompt=[instruction,input]', which "
            "joins them."
        )
    if isinstance(row[prompt], str) or len(prompts) > 1:
        asked = "\n\n".join(text_in(row, key, where) for key in prompts if row.get(key))
        return [(asked, False), (text_in(row, completion, where), True)], False
    told, asked = _messages(row[completion], f"{where}, {completion!r}"), _messages(row[prompt], f"{where}, {prompt!r}")
    answers = [len(asked) + i for i, message in enumerate(told) if message["role"] == "assistant"]
    return _conversation([*asked, *told], answers if every else answers[-1:], render, where), True


def renderer(template: str | None, tokenizer: str | None) -> Render:
    """Return what writes messages as one text: the tokenizer's own template, a file of Jinja's, or ChatML.

    template: 'chatml', a .jinja file, or None for the tokenizer's own (without a tokenizer ChatML).
    """
    if template == BUILT_IN or (template is None and tokenizer is None):
        return _chatml
    own = None
    if template is not None:
        file = Path(template).expanduser()
        if not file.is_file():
            raise UsageError(f"stream.template={template!r}: expected {BUILT_IN}, or the path of a Jinja template.")
        own = file.read_text(encoding="utf-8")
    known: Any = None

    def render(messages: list[Message], answer: bool) -> str:
        nonlocal known
        known = known or _opened(tokenizer)  # prompts and completions need none
        if own is None and not known.chat_template:
            raise UsageError(
                f"stream.tokenizer={tokenizer!r} has no chat template. Expected stream.template={BUILT_IN}, or a Jinja file."
            )
        try:
            return known.apply_chat_template(messages, chat_template=own, tokenize=False, add_generation_prompt=answer)
        except Exception as error:  # templates refuse roles and orders in their own words
            raise UsageError(f"The chat template refuses {[m['role'] for m in messages]}: {error}.") from error

    return render


def _opened(tokenizer: str | None) -> Any:
    """Return transformers' tokenizer, which renders templates; one that knows no words where there is none."""
    torchvision()  # transformers imports it
    try:
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise UsageError("Chat templates need transformers: pip install 'frostline[text]'.") from error
    if tokenizer is None:
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    place = Path(tokenizer).expanduser()
    if place.is_dir():
        return PreTrainedTokenizerFast.from_pretrained(str(place), local_files_only=True)
    return PreTrainedTokenizerFast(tokenizer_file=str(place))


def _chatml(messages: list[Message], answer: bool) -> str:
    told = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return told + "<|im_start|>assistant\n" * answer


def _messages(given: Any, where: str) -> list[Message]:
    """Return messages as {role, content} with text as content; ShareGPT's {from, value} are read as such."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise UsageError(f'{where}: expected a list of {{"role": ..., "content": ...}}, not {given!r}.'[:300])
    found = []
    for message in given:
        if isinstance(message, dict) and {"from", "value"} <= message.keys():
            message = {"role": SPEAKERS.get(message["from"], message["from"]), "content": message["value"]}
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str) or not isinstance(message.get("role"), str):
            raise UsageError(f'{where}: expected {{"role": ..., "content": text}}, not {message!r}.'[:300])
        found.append({"role": message["role"], "content": content})
    return found


def _conversation(messages: list[Message], answers: Sequence[int], render: Render, where: str) -> list[Stretch]:
    """Return the conversation in stretches; an answer begins where the model would begin it, and ends with its last sign."""
    whole, found, done = render(messages, False), [], 0
    for number in answers:
        before, after = render(messages[:number], True), render(messages[: number + 1], False)
        if not (whole.startswith(before) and whole.startswith(after)):
            raise UsageError(
                f"{where}: the chat template writes the messages up to number {number + 1} differently when more "
                "follow, so what is an answer cannot be told. Expected stream.learn_from=last, or stream.template=chatml."
            )
        found += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
        done = len(after)
    return [*found, (whole[done:], False)] if done < len(whole) else found
