"""Makes the whole miniature: pictures, tokenizer, autoencoder, base, judges, evaluation files, prompts.

    python -m emoji.make --config emoji/cpu.yaml [--work build/emoji]

Every stage is skipped when its output is there, and resumes from its checkpoint when it was cut off.
Two hours on two CPU cores; `gpu.yaml` is the larger one. Writes to hypersd/bundled/.
"""

from __future__ import annotations

from emoji import autoencoder, base, evaluation, export, judges, prompts, tokenizer
from emoji.config import from_command_line
from emoji.dataset import build
from emoji.training import say


def main() -> None:
    config = from_command_line(__doc__)
    say(f"pictures: {build(config)}")
    say(f"tokenizer: {tokenizer.train(config)}")
    say(f"autoencoder: {autoencoder.train(config)}")
    say(f"base: {base.train(config)}")
    say(f"pipeline: {export.export(config)}")
    for name in ("a", "b"):
        judges.main(name, config)
    say(f"evaluation files: {evaluation.write(config)}")
    say(f"prompts: {prompts.write(config)}")


if __name__ == "__main__":
    main()
