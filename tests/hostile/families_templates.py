"""Chat templates of captioners that never end, or that make huge texts."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from .cases import Kind, family
from .fixtures import copy, picture

_GROWING = "{% set x = 'ab' %}"
TEMPLATES = {
    "three loops of 999": "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "loops over a text": "{% set t = 'abcdefghijklmnopqrstuvwxyz' %}" + "{% for a in t %}" * 8 + "{% endfor %}" * 8,
    "range of 99999": "{{ range(99999)|list }}",
    "a text times 1e10": "{{ 'a' * 10000000000 }}",
    "a list times 1e10": "{{ [1] * 10000000000 }}",
    "power tower": "{{ 9 ** 9 ** 9 ** 9 }}",
    "filter with a width": "{{ 'a'|center(1000000000) }}",
    "method with a width": "{{ 'a'.zfill(1000000000) }}",
    "percent with a width": "{{ '%2000000000d' % 1 }}",
    "format with a width": "{{ '{:2000000000}'.format(1) }}",
    "format filter with a width": "{{ '%2000000000d'|format(1) }}",
    "batch": "{{ [1]|batch(100000000, 'a')|list }}",
    "slice": "{{ [1]|slice(100000000)|list }}",
    "indent": "{{ 'a\nb'|indent(1000000000) }}",
    "tabs": "{{ '\t'.expandtabs(1000000000) }}",
    "lipsum": "{{ lipsum(999, false, 900, 999) }}",
    "doubled text": _GROWING + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "doubled text, plus": _GROWING + "{% set x = x + x %}" * 40 + "{{ x }}",
    "doubled list": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 40 + "{{ x }}",
    "doubled text in a namespace": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}",
    "doubled list in a namespace": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x|tojson }}",
    "doubled block": _GROWING + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "joined with itself": _GROWING + "{% set x = x.join(x) %}" * 9,
    "joined often": "{% set x = 'a'.center(900) %}{{ " + " ~ ".join(["x.join(x)"] * 900) + " }}",
    "replaced often": "{% set x = 'a'.ljust(900, 'a') %}{{ x" + "|replace('a', x)" * 6 + " }}",
    "macro that calls itself": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "macro that calls itself twice, 40 deep": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(40) }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    "written in small pieces": "{% for a in range(999) %}" + "a" * 999 + "{% endfor %}",
    "20000 brackets": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "3000 nested conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "30 nested loops": "{% for a in 'ab' %}" * 30 + "{% endfor %}" * 30,
    "a megabyte": "a" * 10**6,
    "syntax": "{% if %}",
    "unknown variable": "{{ a.b.c }}",
    "unknown filter": "{{ messages|huge }}",
    "an error of its own": "{{ raise_exception('only Python') }}",
    "a file": "{% include '/etc/passwd' %}",
    "Python's classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "method of an image": "{{ messages[0].content[0].image.save('executed.png') }}",
}  # fmt: skip
RIGHT = {
    "parity of the turn": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns') }}{% endif %}<image>{{ m.content[1].text|trim + ' :' }}{% endfor %}",
    "namespace, macro and date": "{%- macro text(m) %}{{ m.content|selectattr('text')|map(attribute='text')|join }}"
    "{%- endmacro %}{%- set n = namespace(index=0) %}{%- for m in messages %}{%- set n.index = n.index + 1 %}"
    "{{- '<image>' + text(m) + strftime_now('%Y')[:0] }}{% generation %} :{% endgeneration %}{% endfor %}",
    "filter that is never used": "{% if false %}{{ 'a'|center(1000000000) }}{% endif %}<image>",
}


def captioned(template: str, folder: Path, rng: Random) -> Any:
    from tadp import Captioner

    place = copy("llava", folder)
    (place / "chat_template.jinja").write_text(template)
    return Captioner.from_pretrained(place, max_new_tokens=4)([picture()])


@family("chat templates")
def chat_templates() -> Iterator[Kind]:
    for name, template in TEMPLATES.items():
        yield Kind(name, partial(captioned, template), names=r"chat_template\.jinja")
    for name, template in RIGHT.items():
        yield Kind(name, partial(captioned, template), right=lambda captions: len(captions) == 1)
