"""``loss-align completion``: what a shell needs to complete our command lines, made from the parser itself."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping

from alignment.rules import RULES

from .defaults import shown, takes_path

NAME = "completion"
HELP = "the completion of bash, zsh or fish, to be sourced"
DESCRIPTION = (
    'Prints what a shell sources to complete loss-align: eval "$(loss-align completion bash)" in ~/.bashrc, the same '
    "with zsh in ~/.zshrc, or loss-align completion fish > ~/.config/fish/completions/loss-align.fish."
)
#: zsh runs a completion of bash by its own module.
ZSH = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\nautoload -Uz bashcompinit && bashcompinit\n"
BASH = """\
_loss_align() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} codes={codes} words= given
  COMPREPLY=()
  for given in "${{COMP_WORDS[@]}}"; do
    [[ ${{COMP_WORDS[1]}} == run && $given == *.py ]] && return  # the words of a script are its own
  done
  case "${{COMP_WORDS[1]}} $before" in
{values}
    *) case "${{COMP_WORDS[1]}} $word" in
{options}
    esac ;;
  esac
  [[ $COMP_CWORD == 1 ]] && words={commands}
  [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _loss_align loss-align
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=tuple(SHELLS), help="which shell")


def run(args: argparse.Namespace) -> int:
    """Print the completion."""
    print(SHELLS[args.shell](args.parsers), end="")
    return 0


def bash(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """A function that bash calls: words where the option before it, or the command, knows them; files otherwise."""
    values, options = [], []
    for name, parser in parsers.items():
        for action in shown(parser):
            known = values_of(action)
            if known and action.option_strings:
                before = "|".join(f'"{name} {option}"' for option in action.option_strings)
                values.append(f"    {before}) words={_told(known)} ;;")
            elif known:
                options.append(f'      "{name} "[!-]*|"{name} ") words={_told(known)} ;;')
        every = [option for action in shown(parser) for option in action.option_strings]
        options.append(f'      "{name} -"*) words={_quoted(every)} ;;')
    told = {"values": "\n".join(values), "options": "\n".join(options)}
    return BASH.format(commands=_quoted(parsers), codes=_quoted(RULES), **told)


def zsh(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """That of bash, and what lets zsh run it."""
    return ZSH + bash(parsers)


def fish(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """One line an option, with what its help says first."""
    lines = [f"complete -c loss-align -f -n __fish_use_subcommand -a {_quoted(parsers)}"]
    for name, parser in parsers.items():
        for action in shown(parser):
            words = ["complete", "-c", "loss-align", "-n", f"__fish_seen_subcommand_from {name}"]
            for option in action.option_strings:
                words += ["-l" if option.startswith("--") else "-s", option.lstrip("-")]
            known = values_of(action)
            if known:
                words += ["-x", "-a", " ".join(known)]
            elif action.option_strings and action.nargs != 0:
                words.append("-r" if takes_path(action) else "-x")
            if action.option_strings and action.help:
                words += ["-d", action.help.partition(";")[0].replace("%%", "%")]
            if known or action.option_strings:
                lines.append(shlex.join(words))
    return "\n".join(lines) + "\n"


def values_of(action: argparse.Action) -> list[str]:
    """The words that an option or an argument takes, where they can be listed."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    return list(RULES) if str(action.metavar).startswith("CODE") else []


def _told(words: list[str]) -> str:
    return "$codes" if words == list(RULES) else _quoted(words)


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
