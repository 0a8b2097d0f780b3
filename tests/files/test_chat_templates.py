"""Chat templates are rendered as transformers renders them, within limits."""

import sys
from types import SimpleNamespace

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tadp.errors import ModelError
from tadp.files.chat_templates import render_chat

TOKENIZER = SimpleNamespace(special_tokens_map={"bos_token": "<s>", "eos_token": "</s>"})
CHAT = [
    {
        "role": "user",
        "content": [{"type": "image", "image": "<Image>"}, {"type": "text", "text": "What is 'here' {{ 1 }}?\n"}],
    }
]
TURNS = """{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('turns') }}{% endif %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}
{{- c.text|trim + '\\n' }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"""
NAMESPACE = """{%- set n = namespace(k=0, text='') %}{%- macro shown(c) %}[{{ c.text or c.image }}]{% endmacro %}
{%- for m in messages %}{%- for c in m.content %}{%- set n.k = n.k + 1 %}{%- set n.text = n.text ~ shown(c) %}
{%- endfor %}{%- endfor %}{{ n.text }} {{ n.k * 2 }} {{ messages|tojson }}{% generation %}:{% endgeneration %}
{%- if tools is none and documents is not defined or true %}{{ eos_token }}{% endif %}"""


@pytest.mark.parametrize("template", [TURNS, NAMESPACE])
def test_the_text_is_that_of_transformers(template):
    expected = render_jinja_template(
        conversations=[CHAT], chat_template=template, add_generation_prompt=True, **TOKENIZER.special_tokens_map
    )[0][0]
    assert render_chat(template, CHAT, tokenizer=TOKENIZER, source="m") == expected
    assert render_chat({"default": template}, CHAT, tokenizer=TOKENIZER, source="m") == expected


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in messages[0].role * 9 %}{% endfor %}", "only allowed for numbers"),
        ("{% for a in range(99) %}{% for b in range(99) %}{% for c in range(99) %}{% endfor %}{% endfor %}{% endfor %}",
         "more than 50000 steps"),
        ("{{ 'a'|center(2000) }}", "number 2000 in a call"),
        ("{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 30, "values of more than"),
        ("{{ raise_exception('no images') }}", "TemplateError: no images"),
        ("x" * 60_000, "60000 characters"),
        ({"tools": "x"}, "one named default"),
    ],
)  # fmt: skip
def test_a_template_beyond_a_limit_is_refused_by_name(template, why):
    before = sys.gettrace()
    with pytest.raises(ModelError, match=rf"the chat template of the captioner 'm' cannot be used: .*{why}"):
        render_chat(template, CHAT, tokenizer=TOKENIZER, source="the captioner 'm'")
    assert sys.gettrace() is before


def test_a_debugger_or_a_coverage_tool_stays():
    def trace(frame, event, argument):
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        render_chat(TURNS, CHAT, tokenizer=TOKENIZER, source="m")
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
