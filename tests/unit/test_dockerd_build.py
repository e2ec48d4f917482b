"""Dockerfiles as text: lines, words, instructions, patterns; no daemon, no root."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.api import errors
from longshore.dockerd.build import configs, durations, instructions, lines, patterns, ports
from longshore.dockerd.build import instructions as said
from longshore.dockerd.build.arguments import Arguments
from longshore.dockerd.build.words import Expander
from longshore.dockerd.records import ContainerConfig

VARIABLES = {"one": "1", "empty": "", "path": "a/b/c.tar.gz", "name": "two words"}


def word(text: str, escape: str = "\\") -> str:
    return Expander(escape, VARIABLES).word(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$one-${one}", "1-1"),
        ('\\$one \'$one\' "$one" "\\$one"', "$one $one 1 $one"),
        ("${none:-a$one} ${empty:-b} ${empty-c}", "a1 b "),
        ("${one:+x} ${empty:+x} ${empty+x} ${none+x}", "x  x "),
        ("${one:?bad}", "1"),
        ("${path#*/} ${path##*/} ${path%.*} ${path%%.*}", "b/c.tar.gz c.tar.gz a/b/c.tar a/b/c"),
        ("${path/b/x} ${path//a/y} ${path/?.t/z}", "a/x/c.tar.gz y/b/c.tyr.gz a/b/zar.gz"),
        ('a\\ b "a\\ b" "a\\"b"', 'a b a\\ b a"b'),
        ("$ $+ a$", "$ $+ a$"),
        ("${none}", ""),
        ("$1x", "x"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert word(text) == expected


def test_words_are_split_after_expansion_unless_quoted() -> None:
    assert Expander("\\", VARIABLES).words("$name \"$name\" a'b c' $empty") == [
        "two",
        "words",
        "two words",
        "ab c",
    ]


def test_another_escape() -> None:
    assert word("`$one \\$one", "`") == "$one \\1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${one", "missing '}'"),
        ("${}", "bad substitution"),
        ("${none:?is needed}", "none: is needed"),
        ("${none?}", "none: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${one!x}", r"unsupported modifier \(!\)"),
        ("'a", "single-quote"),
        ('"a', "double-quote"),
    ],
)
def test_words_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=rf"failed to process .*{words}"):
        word(text)


def parsed(text: str) -> list[tuple[Any, ...]]:
    return [(line.name, *line.arguments) for line in lines.parse(text).lines]


def test_lines() -> None:
    text = '# a comment\nFROM a\n\nRUN one \\\n  # inside\n  two\n  ENV a=b \'c=d e\'\nCMD ["x", "y"]\n'
    assert parsed(text) == [
        ("from", "a"),
        ("run", "one   two"),
        ("env", "a", "b", "=", "'c", "d e'", "="),
        ("cmd", "x", "y"),
    ]


def test_the_escape_directive_stands_first() -> None:
    assert parsed("# escape=`\nRUN a`\n b\\\n") == [("run", "a b\\")]
    assert lines.parse("# x\n# escape=`\nRUN a\n").escape == "\\"
    with pytest.raises(lines.ParseError, match="invalid escape token 'x'"):
        lines.parse("# escape=x\nFROM a\n")


def test_flags_and_old_forms() -> None:
    line = lines.parse_line('COPY --chown=a:b --from="x y" src dst')
    assert (line.flags, line.arguments) == (("--chown=a:b", "--from=x y"), ("src", "dst"))
    assert lines.parse_line("ENV key value  with spaces").arguments == ("key", "value  with spaces", "")
    assert lines.parse_line("RUN [not json").arguments == ("[not json",)


def test_here_documents_are_refused() -> None:
    for text in ("RUN <<EOF\necho\nEOF\n", "COPY <<x /y\nx\n", "FROM a\nRUN cat <<-'E'\nE\n"):
        with pytest.raises(lines.ParseError, match="BuildKit"):
            lines.parse(text)
    assert parsed("RUN echo $((1<<2))\n") == [("run", "echo $((1<<2))")]


def one(text: str) -> said.Command:
    return instructions.command(lines.parse_line(text)).command


def test_instructions() -> None:
    assert one("EXPOSE 80 443/tcp") == said.Expose(("443/tcp", "80"))
    assert one("ARG a b=c") == said.Arg((("a", None), ("b", "c")))
    assert one("RUN a  b") == said.Run(("a  b",), True)
    assert one('ENTRYPOINT ["a"]') == said.Entrypoint(("a",), False)
    assert one("ONBUILD run x y") == said.Onbuild("run x y")
    health = one("HEALTHCHECK --interval=1m30s --retries=2 CMD a b")
    assert health == said.Healthcheck(("CMD-SHELL", "a b"), interval=90 * 10**9, retries=2)
    assert one("HEALTHCHECK NONE") == said.Healthcheck(("NONE",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("COPY a", "COPY requires at least two arguments"),
        ("COPY --unknown=1 a b", "unknown flag: unknown"),
        ("COPY --link a b", "the --link option requires BuildKit"),
        ("COPY --chown a b", "missing a value on flag: chown"),
        ("COPY --chown=a --chown=b a b", "duplicate flag specified: chown"),
        ("ADD --from=x a b", "unknown flag: from"),
        ("USER a b", None),
        ("USER", "USER requires exactly one argument"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV =a", "ENV names can not be blank"),
        ("SHELL sh", "SHELL requires the arguments to be in JSON form"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("HEALTHCHECK X y", 'Unknown type "X" in HEALTHCHECK'),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("HEALTHCHECK --interval=1us CMD a", "cannot be less than 1ms"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("ONBUILD ONBUILD x", "Chaining ONBUILD"),
        ("WHAT x", "unknown instruction: WHAT"),
    ],
)
def test_bad_instructions(text: str, words: str | None) -> None:
    if words is None:
        one(text)
        return
    with pytest.raises(ValueError, match=words):
        one(text)


def test_stages() -> None:
    plan = instructions.plan(lines.parse("ARG v\nFROM a AS One\nRUN x\nFROM --platform=linux/arm64 b\n"))
    assert [step.code for step in plan.arguments] == ["ARG v"]
    assert [(stage.base, stage.name, stage.platform) for stage in plan.stages] == [
        ("a", "one", ""),
        ("b", "", "linux/arm64"),
    ]
    assert plan.length == 4
    assert plan.until("ONE").stages == plan.stages[:1] == plan.until("0").stages
    with pytest.raises(lines.ParseError, match="failed to reach build target x in Dockerfile"):
        plan.until("x")
    labelled = plan.labelled([("k", "$v")])
    assert labelled.stages[-1].steps[-1] == instructions.Step("LABEL k=$v", said.Label((("k", "$v"),), True))


@pytest.mark.parametrize("text", ["FROM a AS 1x", "FROM a b", "RUN x", "FROM a AS b c"])
def test_bad_stages(text: str) -> None:
    with pytest.raises(lines.ParseError):
        instructions.plan(lines.parse(text))


def test_arguments() -> None:
    arguments = Arguments({"given": "g", "unset": None, "http_proxy": "p", "unused": "u"})
    arguments.declare_global("outer", "o")
    stage = arguments.stage()
    assert stage.values() == {"http_proxy": "p"}
    for name, default in (("outer", None), ("given", "d"), ("unset", "e"), ("nothing", None)):
        stage.declare(name, default)
    assert stage.values() == {"outer": "o", "given": "g", "unset": "e", "http_proxy": "p"}
    environment = stage.environment(["given=env"])
    assert environment == ["outer=o", "unset=e", "http_proxy=p"]
    assert stage.recorded(environment) == ["outer=o", "unset=e"]
    assert stage.unused() == ["unused"]


def test_patterns() -> None:
    assert patterns.glob("a*[b-d]?").fullmatch("axxcz")
    assert not patterns.glob("a*").fullmatch("a/b")
    assert patterns.glob("[^a]\\*").fullmatch("b*")
    for bad in ("[a", "a\\"):
        with pytest.raises(ValueError):
            patterns.glob(bad)
    ignore = patterns.ignore_file("# no\n*.log\n!keep.log\n/sub/\n**/deep\n\n")
    paths = ("a.log", "keep.log", "sub/x", "x/y/deep/z", "b", "x/a.log")
    assert [path for path in paths if patterns.ignored(path, ignore)] == ["a.log", "sub/x", "x/y/deep/z"]


def test_ports_and_durations() -> None:
    assert ports.exposed(["80", "53/udp", "1.2.3.4:1:7-8"]) == ["80/tcp", "53/udp", "7/tcp", "8/tcp"]
    for bad in ("x", "80/x", "9-8", "70000", ""):
        with pytest.raises(errors.InvalidArgument):
            ports.exposed([bad])
    for text in ("0s", "1.5s", "300ms", "1m0s", "1h0m2s"):
        assert durations.text(durations.nanoseconds(text)) == text


def test_configurations() -> None:
    config = ContainerConfig(env=["a=1"], cmd=["x"], entrypoint=["y"])
    configs.set_variable(config, "a", "2")
    configs.set_variable(config, "b", "3")
    assert config.env == ["a=2", "b=3"]
    remark = configs.commented(config, "ENV a=2")
    assert remark.cmd == ["/bin/sh", "-c", "#(nop) ", "ENV a=2"] and config.cmd == ["x"]
    document = configs.document(config)
    assert "Healthcheck" not in document and document["Volumes"] is None
    other = configs.document(configs.copied(config)) | {"Image": "sha256:1", "Volumes": {}}
    assert configs.same(document, other)
    assert not configs.same(document, configs.document(remark))
