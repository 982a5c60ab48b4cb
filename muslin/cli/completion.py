"""`muslin completion`: what a shell needs to complete this command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands, options, and names of pools, pods and nodes.

    \b
    bash   add to ~/.bashrc:  eval "$(muslin completion bash)"
    zsh    add to ~/.zshrc:   eval "$(muslin completion zsh)"
    fish   once:  muslin completion fish > ~/.config/fish/completions/muslin.fish
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "muslin", "_MUSLIN_COMPLETE").source())
