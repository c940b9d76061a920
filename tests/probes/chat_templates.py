"""Twelve chat templates of our own, after the families that are published, and a tokenizer of bytes for each."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

__all__ = ["FAMILIES", "Family", "conversation", "tokenizer_of"]


@dataclass(frozen=True)
class Family:
    """A chat template, its special tokens (the first of them ends a text), and what it can say."""

    template: str
    special: tuple[str, ...]
    system: bool = True
    tools: bool = False


def _turns(opening, closing, *, names="message['role']", bos="", ask=""):
    """A template that writes every turn alike."""
    body = f"{{{{ {opening} + message['content'] + {closing} }}}}".replace("ROLE", names)
    return f"{bos}{{% for message in messages %}}{body}{{% endfor %}}{{% if add_generation_prompt %}}{ask}{{% endif %}}"


_IM = ("<|im_end|>", "<|im_start|>")
_CHATML = _turns("'<|im_start|>' + ROLE + '\\n'", "'<|im_end|>\\n'", ask="<|im_start|>assistant\n")

_LLAMA3 = _turns(
    "'<|start_header_id|>' + ROLE + '<|end_header_id|>\\n\\n'",
    "'<|eot_id|>'",
    bos="<|begin_of_text|>",
    ask="<|start_header_id|>assistant<|end_header_id|>\n\n",
)

_PHI = _turns("'<|' + ROLE + '|>\\n'", "'<|end|>\\n'", ask="<|assistant|>\n")

_MISTRAL = """<s>{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}\
{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}\
{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}\
[INST] {% if loop.index0 == 0 %}{{ system }}{% endif %}{{ message['content'] }} [/INST]\
{% else %} {{ message['content'] | trim }}</s>{% endif %}{% endfor %}"""

_LLAMA2 = """{% if messages[0]['role'] == 'system' %}\
{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}\
{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}\
{% for message in turns %}{% if message['role'] == 'user' %}\
<s>[INST] {% if loop.index0 == 0 %}{{ system }}{% endif %}{{ message['content'] }} [/INST]\
{% else %} {{ message['content'] }} </s>{% endif %}{% endfor %}"""

_GEMMA = """<bos>{% for message in messages %}{% if message['role'] == 'system' %}\
{{ raise_exception('no system turn') }}{% endif %}\
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
<start_of_turn>{{ role }}\n{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}\
{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"""

_QWEN = """{% set last = namespace(at=-1) %}{% for message in messages %}{% if message['role'] == 'user' %}\
{% set last.at = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}\
<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' and loop.index0 > last.at %}\
<think>\n{{ message.get('reasoning_content', '') }}\n</think>\n\n{% endif %}\
{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"""

_DEEPSEEK = """<|bos|>{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}\
{% elif message['role'] == 'user' %}<|User|>{{ message['content'] }}\
{% else %}<|Assistant|>{{ message['content'].split('</think>')[-1] }}<|eos|>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"""

_GLM = """[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}"""

_TOOLS = """{% if tools %}<|im_start|>system\nCall with <tool_call>. Tools: {{ tools | tojson }}<|im_end|>\n{% endif %}\
{% for message in messages %}{% if message['role'] == 'tool' %}\
<|im_start|>user\n<tool_response>\n{{ message['content'] }}\n</tool_response><|im_end|>\n\
{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}{% for call in message.get('tool_calls', []) %}\
<tool_call>\n{{ call['function'] | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"""

_GENERATION = """{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n\
{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"""

_COMMAND = """<BOS>{% for message in messages %}<|START_OF_TURN|>{% if message['role'] == 'system' %}<|SYSTEM|>\
{% elif message['role'] == 'user' %}<|USER|>{% else %}<|CHATBOT|>{% endif %}{{ message['content'] | trim }}\
<|END_OF_TURN|>{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN|><|CHATBOT|>{% endif %}"""

FAMILIES = {
    "chatml": Family(_CHATML, _IM),
    "llama3": Family(
        _LLAMA3, ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")
    ),
    "mistral": Family(_MISTRAL, ("</s>", "<s>", "[INST]", "[/INST]")),
    "llama2": Family(_LLAMA2, ("</s>", "<s>")),
    "gemma": Family(_GEMMA, ("<end_of_turn>", "<bos>", "<start_of_turn>", "<eos>"), system=False),
    "qwen": Family(_QWEN, (*_IM, "<think>", "</think>", "<|endoftext|>")),
    "deepseek": Family(_DEEPSEEK, ("<|eos|>", "<|bos|>", "<|User|>", "<|Assistant|>", "<think>", "</think>")),
    "phi": Family(_PHI, ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>")),
    "glm": Family(_GLM, ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")),
    "tools": Family(_TOOLS, (*_IM, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"), tools=True),
    "generation": Family(_GENERATION, _IM),
    "command": Family(
        _COMMAND, ("<|END_OF_TURN|>", "<BOS>", "<|START_OF_TURN|>", "<|SYSTEM|>", "<|USER|>", "<|CHATBOT|>")
    ),
}


@functools.cache
def tokenizer_of(family):
    """A tokenizer of bytes with the special tokens of a family, from id 256 on, and padding behind them."""
    from probes.batches.byte_tokenizer import byte_tokenizer

    made = FAMILIES[family]
    special = {token: 256 + n for n, token in enumerate((*made.special, "<pad>"))}
    special |= {"<|begin_of_text|>": special.get("<|begin_of_text|>", 300), "<|end_of_text|>": 301}
    tokenizer = copy.deepcopy(byte_tokenizer(special))  # families of the same special tokens share one
    tokenizer.eos_token, tokenizer.pad_token = made.special[0], "<pad>"
    tokenizer.bos_token = None
    tokenizer.chat_template = made.template
    return tokenizer


def conversation(family, answers=2, seed=0):
    """Messages of a conversation that the family can write, with ``answers`` answers."""
    made = FAMILIES[family]
    said = [{"role": "system", "content": f"Be brief, {seed}."}] if made.system else []
    for n in range(answers):
        said.append({"role": "user", "content": f"What is {seed + n} and {n}?"})
        if made.tools and n == 0:
            call = {"type": "function", "function": {"name": "add", "arguments": {"a": seed, "b": n}}}
            said.append({"role": "assistant", "content": "", "tool_calls": [call]})
            said.append({"role": "tool", "content": f"sum: {seed + n}"})
        answer = {"role": "assistant", "content": f"That makes {seed + 2 * n}, so {seed}{n}."}
        if family == "qwen" and n == answers - 1:
            answer["reasoning_content"] = f"{seed} plus {n}"
        said.append(answer)
    return said
