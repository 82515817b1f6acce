"""What shells complete beyond verbs and options: files, recipes, and fields of the job that is named.

Bash splits words at `:` and `=` as well, and all shells put a blank behind what they have completed: the scripts that
bash and zsh are given here do otherwise where a field or a recipe goes on.
"""

import os

import click
from click.shell_completion import BashComplete, CompletionItem, ZshComplete, add_completion_class, split_arg_string

BASH = r"""%(complete_func)s() {
    local IFS=$'\n' answer kind value typed word seen
    typed=${COMP_LINE:0:COMP_POINT}
    word=${typed##*[[:space:]]}
    seen=${COMP_WORDS[COMP_CWORD]}
    [[ $seen == [:=]* ]] && seen=
    for answer in $(env COMP_LINE="$typed" %(complete_var)s=bash_complete "$1"); do
        kind=${answer%%%%,*} value=${answer#*,}
        if [[ $kind == file ]]; then
            compopt -o default
        elif [[ $kind == plain ]]; then
            [[ $value == *[=./] ]] && compopt -o nospace
            COMPREPLY+=("${value#"${word%%"$seen"}"}")
        fi
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
"""What bash replaces is a word's part behind its last `:` or `=`, which is all that it calls the word."""

ZSH = r"""#compdef %(prog_name)s
%(complete_func)s() {
    local kind value described
    local -a answers whole asking
    asking=(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete)
    answers=("${(@f)$(env "$asking[@]" "$words[1]")}")
    for kind value described in $answers; do
        if [[ $kind == file ]]; then
            compset -P '*='
            _path_files
        elif [[ $value == *[=./] ]]; then
            compadd -U -V fields -S '' -- "$value"
        elif [[ $described == _ ]]; then
            compadd -U -V fields -- "$value"
        else
            whole+=("$value:$described")
        fi
    done
    (( $#whole )) && _describe -V '' whole
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


class Bash(BashComplete):
    """Bash, which is asked for the line as it was typed."""

    source_template = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the last one, and the last one, which may be empty."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() else (words[:-1], words[-1] if words else "")


class Zsh(ZshComplete):
    """Zsh."""

    source_template = ZSH


add_completion_class(Bash)
add_completion_class(Zsh)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Has the shell complete names of files."""
    return [CompletionItem(incomplete, type="file")]


def files_and_recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of files, or `package://…` of the recipes where that has been begun."""
    from dr_pipeline.config.recipes import recipes

    known = [uri for uri in recipes() if uri.startswith(incomplete)] if incomplete.startswith("pack") else []
    return [CompletionItem(uri) for uri in known] or files(ctx, param, incomplete)


def fields(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Fields of the verb's kind of job; of their values those that are words, else names of files."""
    from dr_pipeline.cli.job import kinds_by_verb
    from dr_pipeline.config.fields import complete_override
    from dr_pipeline.config.recipes import located
    from dr_pipeline.config.yaml_file import read_yaml
    from dr_pipeline.errors import ConfigError

    try:
        tree = read_yaml(located(ctx.params.get("job") or ""), "job file")
    except ConfigError:  # it says so when it is run
        tree = {}
    kinds = kinds_by_verb()
    found = complete_override(kinds.get(ctx.info_name or "", kinds["run"]), tree, incomplete)
    if not found and "=" in incomplete:
        return files(ctx, param, incomplete.partition("=")[2])
    return [CompletionItem(one) for one in found]
